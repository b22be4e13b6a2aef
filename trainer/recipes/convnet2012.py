"""The recipe that the authors' own 2012 code ran [C] (layers-145): the one that made the published numbers."""

from trainer.recipes.recipe import (
    ConvLayer,
    CrossMapNorm,
    FullLayer,
    Milestones,
    Pooling,
    Recipe,
    WithinMapNorm,
)

CONVNET2012 = Recipe(
    name="convnet2012",
    activation="relu",
    # [C]: conv1 normalises before ReLU and pools before it; conv2 has a second norm within each map; conv5 pools
    # before ReLU (the same values as after it). Deviation 0.03 in conv3-5.
    convs=(
        ConvLayer(
            name="conv1",
            maps=48,
            kernel=11,
            stride=4,
            pad=0,
            sees="image",
            then=("lrn", "pool", "activation"),
            deviation=0.01,
            bias=0.0,
        ),
        ConvLayer(
            name="conv2",
            maps=128,
            kernel=5,
            stride=1,
            pad=2,
            sees="own",
            then=("activation", "lrn", "map_norm", "pool"),
            deviation=0.01,
            bias=1.0,
        ),
        ConvLayer(
            name="conv3",
            maps=192,
            kernel=3,
            stride=1,
            pad=1,
            sees="both",
            then=("activation",),
            deviation=0.03,
            bias=0.0,
        ),
        ConvLayer(
            name="conv4",
            maps=192,
            kernel=3,
            stride=1,
            pad=1,
            sees="own",
            then=("activation",),
            deviation=0.03,
            bias=1.0,
        ),
        ConvLayer(
            name="conv5",
            maps=128,
            kernel=3,
            stride=1,
            pad=1,
            sees="own",
            then=("pool", "activation"),
            deviation=0.03,
            bias=1.0,
        ),
    ),
    fulls=(
        FullLayer(name="fc6", units=2048, then=("activation", "dropout"), deviation=0.01, bias=1.0),
        FullLayer(name="fc7", units=2048, then=("activation", "dropout"), deviation=0.01, bias=1.0),
        FullLayer(name="fc8", units=None, then=(), deviation=0.01, bias=0.0),
    ),
    lrn=CrossMapNorm(k=2.0, num_maps=5, alpha=1e-4 / 5, beta=0.75),  # [C] divides alpha by the window
    map_norm=WithinMapNorm(window=5, alpha=0.001 / 25, beta=0.75),  # [C], not in the paper
    pooling=Pooling(size=3, stride=2),
    dropout=0.5,
    batch_size=128,
    momentum=0.9,
    weight_decay=0.0005,
    bias_decay=0.0,  # [C]
    weight_rate=0.01,
    bias_rate=0.02,  # [C]: twice the weights', and never lowered
    schedule=Milestones(
        weights=((0, 0.01), (25, 1e-3), (51, 1e-4), (79, 1e-5)),  # [C] log
        conv1_weights=((0, 0.01), (25, 1e-3), (51, 1e-4), (67, 1e-5), (72, 0.0)),  # [C] log
        biases=((0, 0.02),),  # [C] log
        colour=((0, 0.1), (67, 0.0)),  # [C] log
        end_epoch=91,
    ),
    colour_std=0.1,
    colour_scale="sqrt_eigenvalue",  # [C2]
    rescale_after_colour=True,  # [C2]: divides by 1 + the coefficient while noise is on, in training only
)
