"""What is known of networks that began on ImageNet, for those who do without torch, too."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of red, green and blue in 0…1: what these networks subtract, and divide by."""

MOBILENET_V2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""MobileNetV2 (Sandler et al. 2018, table 2): expansion, channels, repeats, stride."""

MOBILENET_V2_TAPS = (1, 3, 6, 13, 17)
"""Its blocks after which the features still have 1/2, 1/4, 1/8, 1/16 and 1/32 of the input's side."""
