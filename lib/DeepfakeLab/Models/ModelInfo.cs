namespace DeepfakeLab;

/// <summary>The figures of one variant, known without building it.</summary>
/// <param name="Name">torchvision's name.</param>
/// <param name="Family">The family as its paper calls it.</param>
/// <param name="Parameters">Learned numbers, with a head of 1000 classes.</param>
/// <param name="MultiplyAdds">Of one image of <see cref="InputSize"/>; see <see cref="VisionModel.CountMultiplyAdds"/>.</param>
public sealed record ModelInfo(string Name, string Family, long Parameters, long MultiplyAdds)
{
    /// <summary>Pixels a side of the images that torchvision evaluates the default weights with.</summary>
    public int InputSize => Weights[^1].Crop;

    /// <summary>The official weight files, the default one last.</summary>
    public IReadOnlyList<PretrainedWeights> Weights => PretrainedWeights.Of(Name);

    /// <summary>Every variant, family by family.</summary>
    public static IReadOnlyList<ModelInfo> All { get; } =
    [
        new("efficientnet_b0", "EfficientNet", 5_288_548, 385_814_752),
        new("efficientnet_b1", "EfficientNet", 7_794_184, 686_802_832),
        new("efficientnet_b2", "EfficientNet", 9_109_994, 1_087_529_456),
        new("efficientnet_b3", "EfficientNet", 12_233_232, 1_827_141_392),
        new("efficientnet_b4", "EfficientNet", 19_341_616, 4_393_771_024),
        new("efficientnet_b5", "EfficientNet", 30_389_784, 10_266_384_752),
        new("efficientnet_b6", "EfficientNet", 43_040_704, 19_067_593_536),
        new("efficientnet_b7", "EfficientNet", 66_347_960, 37_745_884_192),
        new("efficientnet_v2_s", "EfficientNet", 21_458_488, 8_365_617_152),
        new("efficientnet_v2_m", "EfficientNet", 54_139_356, 24_582_460_384),
        new("efficientnet_v2_l", "EfficientNet", 118_515_272, 56_079_699_008),
        new("mnasnet0_5", "MNASNet", 2_218_512, 104_455_968),
        new("mnasnet0_75", "MNASNet", 3_170_208, 215_493_104),
        new("mnasnet1_0", "MNASNet", 4_383_312, 314_415_872),
        new("mnasnet1_3", "MNASNet", 6_282_256, 526_362_432),
        new("mobilenet_v2", "MobileNetV2", 3_504_872, 300_774_272),
        new("mobilenet_v3_small", "MobileNetV3", 2_542_856, 56_510_400),
        new("mobilenet_v3_large", "MobileNetV3", 5_483_032, 216_589_760),
        new("resnet18", "ResNet", 11_689_512, 1_814_073_344),
        new("resnet34", "ResNet", 21_797_672, 3_663_761_408),
        new("resnet50", "ResNet", 25_557_032, 4_089_184_256),
        new("resnet101", "ResNet", 44_549_160, 7_801_405_440),
        new("resnet152", "ResNet", 60_192_808, 11_513_626_624),
        new("wide_resnet50_2", "Wide ResNet", 68_883_240, 11_398_021_120),
        new("wide_resnet101_2", "Wide ResNet", 126_886_696, 22_753_050_624),
        new("resnext50_32x4d", "ResNeXt", 25_028_904, 4_230_479_872),
        new("resnext101_32x8d", "ResNeXt", 88_791_336, 16_414_015_488),
        new("resnext101_64x4d", "ResNeXt", 83_455_272, 15_460_270_080),
        new("vgg11", "VGG", 132_863_336, 7_609_090_048),
        new("vgg11_bn", "VGG", 132_868_840, 7_609_090_048),
        new("vgg13", "VGG", 133_047_848, 11_308_466_176),
        new("vgg13_bn", "VGG", 133_053_736, 11_308_466_176),
        new("vgg16", "VGG", 138_357_544, 15_470_264_320),
        new("vgg16_bn", "VGG", 138_365_992, 15_470_264_320),
        new("vgg19", "VGG", 143_667_240, 19_632_062_464),
        new("vgg19_bn", "VGG", 143_678_248, 19_632_062_464),
    ];
}
