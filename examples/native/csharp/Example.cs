// Draws one picture in C#, cancels another, and closes in the middle of a third: mcs Example.cs Genin.cs && mono Example.exe BUNDLE OUT.ppm
// With two more arguments, a .genin file whose bundle takes images and OUT2.ppm, also one from memory, of which half is drawn anew.
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
            if (arguments.Length > 3) FromMemory(arguments[2], arguments[3]);
            Console.WriteLine("drawn, cancelled, closed");
            return 0;
        }
        catch (Exception error)
        {
            Console.Error.WriteLine(error.Message);
            return 1;
        }
    }

    // A .genin file that the game's own archive has, and a picture of it that a second one starts from: half of it is drawn anew.
    static void FromMemory(string bundle, string path)
    {
        using (var painter = new Genin.Painter(File.ReadAllBytes(bundle)))
        {
            var first = Finished(painter, painter.Submit("a ninja", seed: 3));
            var start = new Genin.StartImage { Rgba = painter.Take(first), Width = first.Width, Height = first.Height };
            start.Mask = new byte[first.Width * first.Height];
            for (int i = start.Mask.Length / 2; i < start.Mask.Length; ++i) start.Mask[i] = 255; // the bottom row is the first: the upper half
            Genin.Info info = painter.Info.Value;
            if (!info.TakesImages) throw new Exception("the bundle has no encoder");
            var second = Finished(painter, painter.Submit("a hat", seed: 4, image: start));
            Save(path, second, painter.Take(second, bottomFirst: false));
            Console.WriteLine(info.Width + " " + info.Steps + " " + info.Precision);
        }
    }

    static Genin.Event Finished(Genin.Painter painter, ulong ticket)
    {
        while (true)
        {
            foreach (var e in painter.Poll())
            {
                if (e.Kind == Genin.EventKind.Failed) throw new Exception(e.Message);
                if (e.Kind == Genin.EventKind.Done && e.Ticket == ticket) return e;
            }
            Thread.Sleep(2);
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
