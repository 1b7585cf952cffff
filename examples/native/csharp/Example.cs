// Draws one picture in C#, cancels another, and closes in the middle of a third: mcs Example.cs Genin.cs && mono Example.exe BUNDLE OUT.ppm
using System;
using System.IO;
using System.Text;
using System.Threading;

static class Example
{
    static int Main(string[] arguments)
    {
        try
        {
            using (var painter = new Genin.Painter(arguments[0]))
            {
                ulong wanted = painter.Submit("a ninja, 忍者", seed: 7);
                ulong unwanted = painter.Submit("a ninja", steps: 1000, previews: 1, tag: 5);
                for (int open = 2, frames = 0; open > 0; ++frames, Thread.Sleep(2))
                {
                    foreach (var e in painter.Poll())
                    {
                        if (e.Kind == Genin.EventKind.Preview) painter.Cancel(e.Ticket);
                        if (e.Kind == Genin.EventKind.Done && e.Ticket == wanted) Save(arguments[1], e, painter.Take(e, bottomFirst: false));
                        if (e.Kind == Genin.EventKind.Failed)
                        {
                            bool asked = e.Ticket == unwanted && e.Result == Genin.Result.Cancelled && e.Tag == 5;
                            if (!asked) throw new Exception(e.Message);
                        }
                        if ((e.Kind == Genin.EventKind.Done || e.Kind == Genin.EventKind.Failed) && e.Ticket != painter.Loading) --open;
                    }
                }
                painter.Submit("a ninja", steps: 1000);
            }
            Console.WriteLine("drawn, cancelled, closed");
            return 0;
        }
        catch (Exception error)
        {
            Console.Error.WriteLine(error.Message);
            return 1;
        }
    }

    static void Save(string path, Genin.Event e, byte[] rgba)
    {
        using (var file = File.Create(path))
        {
            var head = Encoding.ASCII.GetBytes("P6\n" + e.Width + " " + e.Height + "\n255\n");
            file.Write(head, 0, head.Length);
            for (int i = 0; i < rgba.Length; i += 4) file.Write(rgba, i, 3);
        }
    }
}
