using System.Text.Json;

namespace DeepfakeLab.Tests;

/// <summary>The data commands and what a folder of images is chosen by, in processes of their own.</summary>
public class DataCommandTests
{
    private static (int Code, string Output, string Error) Lab(IDictionary<string, string> environment, params string[] arguments) =>
        TestSupport.Run("dotnet", [Path.Combine(AppContext.BaseDirectory, "DeepfakeLab.Cli.dll"), .. arguments], environment);

    [Fact]
    public void Check_reports_json_and_a_sheet_for_the_folder_that_the_environment_names_and_fails_on_none()
    {
        using var folder = TestSupport.Folder();
        var random = new Random(3);
        foreach (var name in (string[])["fake/a.png", "real/b.png", "real/c.png"])
        {
            Directory.CreateDirectory(Path.GetDirectoryName(folder["faces/" + name])!);
            var image = new RgbImage(60, 50);
            random.NextBytes(image.Pixels);
            image.SavePng(folder["faces/" + name]);
        }
        File.WriteAllText(folder["faces/real/broken.jpg"], "no");
        var environment = new Dictionary<string, string> { ["DEEPFAKELAB_CACHE"] = folder["cache"], ["DEEPFAKELAB_DATA"] = folder["faces"] };

        var (code, output, error) = Lab(environment, "data", "check", "--json", "--sheet", folder["sheet.png"]);
        Assert.True(code == 0, error);
        var json = JsonDocument.Parse(output).RootElement;
        Assert.Equal(3, json.GetProperty("images").GetInt32());
        Assert.Contains("DEEPFAKELAB_DATA", json.GetProperty("origin").GetString());
        Assert.Equal("real/broken.jpg", json.GetProperty("problems")[0].GetProperty("name").GetString());
        Assert.Equal((1280, 128), (ImageReader.Read(folder["sheet.png"]).Width, ImageReader.Read(folder["sheet.png"]).Height));

        Assert.Equal(1, Lab(environment, "data", "check", "--strict").Code);
        (code, _, error) = Lab(environment, "data", "check", folder["nowhere"]);
        Assert.Equal(1, code);
        Assert.Contains("nowhere", error);
        Assert.Equal(2, Lab(environment, "data", "sample").Code);
    }
}
