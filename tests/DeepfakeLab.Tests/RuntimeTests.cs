namespace DeepfakeLab.Tests;

public class RuntimeTests
{
    [Theory]
    [InlineData("0"), InlineData("-1"), InlineData("two"), InlineData("99999")]
    public void A_thread_count_that_is_none_is_refused_with_its_value(string value)
    {
        var error = Assert.Throws<RuntimeException>(() => LabRuntime.ReadThreads(value));
        Assert.Equal(value, error.Subject);
    }
}
