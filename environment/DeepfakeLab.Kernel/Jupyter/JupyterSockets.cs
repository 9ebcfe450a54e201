using System.Net;
using System.Text;
using System.Text.Json.Nodes;
using NetMQ;
using NetMQ.Sockets;

namespace DeepfakeLab.Notebooks;

/// <summary>The five sockets of a Jupyter kernel, on a thread of their own. What cannot be read is dropped.</summary>
internal sealed class JupyterSockets : IDisposable
{
    private const long LargestMessage = 64 << 20;

    private readonly JupyterWire wire;
    private readonly RouterSocket shell = new(), control = new(), stdin = new();
    private readonly PublisherSocket publish = new();
    private readonly RouterSocket heartbeat = new(); // not a reply socket: one odd message would put that out of step
    private readonly NetMQQueue<(NetMQSocket Socket, NetMQMessage Message)> outgoing = new();
    private readonly NetMQPoller poller;

    /// <param name="received">Called on the sockets' thread; must not wait for anything.</param>
    public JupyterSockets(ConnectionFile connection, JupyterWire wire, Action<Channel, JupyterMessage> received)
    {
        this.wire = wire;
        poller = new NetMQPoller { shell, control, stdin, heartbeat, outgoing };
        foreach (var (socket, port) in (ReadOnlySpan<(NetMQSocket, int)>)
            [(shell, connection.Shell), (control, connection.Control), (stdin, connection.Stdin), (publish, connection.IoPub), (heartbeat, connection.Heartbeat)])
        {
            socket.Options.Linger = TimeSpan.FromSeconds(1);
            socket.Options.MaxMsgSize = LargestMessage;
            socket.Options.SendHighWatermark = 100_000;
            socket.Bind($"tcp://{Host(connection.Address)}:{port}");
        }
        Listen(shell, Channel.Shell);
        Listen(control, Channel.Control);
        stdin.ReceiveReady += (_, _) => Receive(stdin); // nothing is asked for, so nothing is expected
        heartbeat.ReceiveReady += (_, _) =>
        {
            if (Receive(heartbeat) is { } ping)
                heartbeat.TrySendMultipartMessage(new NetMQMessage(ping));
        };
        outgoing.ReceiveReady += (_, _) =>
        {
            while (outgoing.TryDequeue(out var next, TimeSpan.Zero))
                next.Socket.TrySendMultipartMessage(next.Message);
        };
        poller.RunAsync("jupyter sockets");

        void Listen(RouterSocket socket, Channel channel) => socket.ReceiveReady += (_, _) =>
        {
            if (Receive(socket) is { } frames && wire.Read(frames) is { } message)
                received(channel, message);
        };
    }

    /// <summary>The channel that a request came on, which its reply goes back on.</summary>
    public enum Channel
    {
        Shell,
        Control,
    }

    public void Reply(Channel channel, string type, JsonObject content, JupyterMessage parent) =>
        outgoing.Enqueue((channel == Channel.Shell ? shell : control, wire.Write(type, content, parent, parent.Identities)));

    public void Publish(string type, JsonObject content, JupyterMessage? parent) =>
        outgoing.Enqueue((publish, wire.Write(type, content, parent, [Encoding.UTF8.GetBytes(type)])));

    private static List<byte[]>? Receive(NetMQSocket socket)
    {
        var frames = new List<byte[]>();
        return socket.TryReceiveMultipartBytes(ref frames!) ? frames : null;
    }

    private static string Host(IPAddress address) =>
        address.AddressFamily == System.Net.Sockets.AddressFamily.InterNetworkV6 ? $"[{address}]" : address.ToString();

    /// <summary>Sends what is waiting, then closes.</summary>
    public void Dispose()
    {
        for (var i = 0; i < 100 && !outgoing.IsEmpty; i++)
            Thread.Sleep(10);
        poller.Dispose(); // stops its thread and waits for it
        foreach (var socket in (NetMQSocket[])[shell, control, stdin, publish, heartbeat])
            socket.Dispose();
        outgoing.Dispose();
    }
}
