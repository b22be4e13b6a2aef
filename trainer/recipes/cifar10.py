"""A network of four layers for CIFAR-10, after the authors' own for it [C1]: what figure 1 of the paper is tried on.

The network of figure 1 itself was never released. This is [C1]'s of three convolutions and one full layer, without what
regularises: no norms, no weight decay ([P] figure 1: "no regularization of any kind").
"""

from trainer.recipes.recipe import ConvLayer, CrossMapNorm, FullLayer, Milestones, Pooling, Recipe

CIFAR10 = Recipe(
    name="cifar10",
    activation="relu",
    convs=(
        ConvLayer(
            name="conv1",
            maps=32,
            kernel=5,
            stride=1,
            pad=2,
            sees="own",
            then=("pool", "activation"),
            deviation=0.0001,
            bias=0.0,
        ),
        ConvLayer(
            name="conv2",
            maps=32,
            kernel=5,
            stride=1,
            pad=2,
            sees="own",
            then=("activation", "mean_pool"),
            deviation=0.01,
            bias=0.0,
        ),
        ConvLayer(
            name="conv3",
            maps=64,
            kernel=5,
            stride=1,
            pad=2,
            sees="own",
            then=("activation", "mean_pool"),
            deviation=0.01,
            bias=0.0,
        ),
    ),
    fulls=(FullLayer(name="fc4", units=None, then=(), deviation=0.01, bias=0.0),),
    lrn=CrossMapNorm(k=1.0, num_maps=1, alpha=0.0, beta=1.0),  # no layer has one
    map_norm=None,
    pooling=Pooling(size=3, stride=2, edge="crossed"),  # [C1]: 32 -> 16 -> 8 -> 4
    dropout=0.0,
    batch_size=128,
    momentum=0.9,
    weight_decay=0.0,
    bias_decay=0.0,
    weight_rate=0.001,
    bias_rate=0.002,  # [C1]: twice the weights'
    schedule=Milestones(
        weights=((0, 0.001),),
        conv1_weights=((0, 0.001),),
        biases=((0, 0.002),),
        colour=((0, 0.0),),
        end_epoch=40,
    ),
    colour_std=0.0,
    colour_scale="sqrt_eigenvalue",
    num_columns=1,
    rescale_after_colour=False,
)
