"""The recipe in the words of the paper [P]."""

from trainer.recipes.recipe import ConvLayer, CrossMapNorm, FullLayer, Plateau, Pooling, Recipe

PAPER = Recipe(
    name="paper",
    activation="relu",  # [P] 3.1
    # Sizes: [P] 3.5 and figure 2. Order of LRN and pooling: [P] 3.5. Deviation and biases: [P] 5.
    convs=(
        ConvLayer(
            name="conv1",
            maps=48,
            kernel=11,
            stride=4,
            pad=0,
            sees="image",
            then=("activation", "lrn", "pool"),
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
            then=("activation", "lrn", "pool"),
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
            deviation=0.01,
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
            deviation=0.01,
            bias=1.0,
        ),
        ConvLayer(
            name="conv5",
            maps=128,
            kernel=3,
            stride=1,
            pad=1,
            sees="own",
            then=("activation", "pool"),
            deviation=0.01,
            bias=1.0,
        ),
    ),
    fulls=(
        FullLayer(name="fc6", units=2048, then=("activation", "dropout"), deviation=0.01, bias=1.0),
        FullLayer(name="fc7", units=2048, then=("activation", "dropout"), deviation=0.01, bias=1.0),
        FullLayer(name="fc8", units=None, then=(), deviation=0.01, bias=0.0),
    ),
    lrn=CrossMapNorm(k=2.0, num_maps=5, alpha=1e-4, beta=0.75),  # [P] 3.3
    map_norm=None,
    pooling=Pooling(size=3, stride=2),  # [P] 3.4
    dropout=0.5,  # [P] 4.2
    batch_size=128,  # [P] 5
    momentum=0.9,  # [P] 5
    weight_decay=0.0005,  # [P] 5
    bias_decay=0.0005,  # [P] 5: the rule names no exception
    weight_rate=0.01,  # [P] 5
    bias_rate=0.01,  # [P] 5: "an equal learning rate for all layers"
    # [P] 5: divided by 10 when the validation error stops improving, three times, about 90 epochs. How long to wait
    # before calling it stopped is ours: the paper adjusted by hand.
    schedule=Plateau(divide_by=10.0, drops=3, patience_epochs=5, end_epoch=90),
    colour_std=0.1,  # [P] 4.1
    colour_scale="sqrt_eigenvalue",  # [C2]: the literal eigenvalue on 0..255 would be absurd
    rescale_after_colour=False,
)
