// genin's native library for C#: Unity, Godot with .NET, MonoGame, or plain .NET. One file; put libgenin beside the program.
//
//     using (var painter = new Genin.Painter("student-1step")) {
//         ulong ticket = painter.Submit("a ninja in the rain", seed: 7);
//         foreach (var e in painter.Poll())                       // every frame
//             if (e.Kind == Genin.EventKind.Done) texture.LoadRawTextureData(painter.Take(e));
//     }
//
// Calls never wait, except Wait and Dispose, which ends a picture that is being drawn. Errors of arguments are exceptions;
// what becomes of a request is an event. docs/embedding.md has the rules.
using System;
using System.Collections.Generic;
using System.Runtime.InteropServices;
using System.Text;

namespace Genin
{
    public enum EventKind { Ready = 1, Preview, Done, Failed }

    public enum Result
    {
        Ok = 0, Argument = -1, Bundle = -2, Engine = -3, Memory = -4, Cancelled = -5, Superseded = -6, Full = -7, Gone = -8,
        Timeout = -9, Prompt = -10
    }

    public sealed class GeninException : Exception
    {
        public readonly Result Result;
        public GeninException(Result result, string message) : base(message) { Result = result; }
    }

    /// <summary>What has become of a ticket.</summary>
    public struct Event
    {
        public EventKind Kind;
        public ulong Ticket, Tag;
        public Result Result;
        public uint Step, Steps, Width, Height;
        public TimeSpan Queued, Drawing;
        public string Message;
    }

    /// <summary>An image to start from: RGBA, a byte a channel, rows without gaps. Everything is copied by Submit.</summary>
    public sealed class StartImage
    {
        public byte[] Rgba;
        public uint Width, Height;
        /// <summary>How rows are ordered in Rgba and Mask: the bottom row first, as Unity's textures have it, or the top row.</summary>
        public bool BottomFirst = true;
        /// <summary>Null, or a byte a pixel: 255 is drawn anew, 0 keeps the image's own pixel.</summary>
        public byte[] Mask;
        /// <summary>How much is drawn anew, above 0 and at most 1; 0: 0.8, or 1 with a mask.</summary>
        public double Strength;
    }

    /// <summary>What a bundle that is loaded draws.</summary>
    public struct Info
    {
        public uint Width, Height, Multiple, Steps;
        public bool TakesImages;
        public float GuidanceScale;
        public string Engine, Precision;
    }

    /// <summary>A bundle, a drawing thread and its queue. Every method may be called from any thread, except Dispose.</summary>
    public sealed class Painter : IDisposable
    {
        IntPtr worker;
        readonly ulong loading;
        readonly Native.Event[] room = new Native.Event[16];
        GCHandle bytes; // of a bundle in memory: pinned until Dispose

        /// <summary>A folder or a .genin file on disk. Returns at once; loading is the ticket Loading.</summary>
        public Painter(string bundle, string enginePath = null, string precision = null, uint threads = 1, int threadPriority = -1,
            uint queueCapacity = 64, ulong maxMemory = 0, string engine = null)
        {
            var options = OptionsOf(threads, threadPriority, queueCapacity, maxMemory);
            loading = Open(bundle, ref options, enginePath, precision, engine);
        }

        /// <summary>The bytes of a .genin file, which the game's own archive has; name is for messages.</summary>
        public Painter(byte[] bundle, string name = "memory.genin", string enginePath = null, string precision = null, uint threads = 1,
            int threadPriority = -1, uint queueCapacity = 64, ulong maxMemory = 0, string engine = null)
        {
            if (bundle == null || bundle.Length == 0) throw new GeninException(Result.Argument, "the bundle is empty");
            var options = OptionsOf(threads, threadPriority, queueCapacity, maxMemory);
            bytes = GCHandle.Alloc(bundle, GCHandleType.Pinned);
            options.bundleData = bytes.AddrOfPinnedObject();
            options.bundleBytes = (ulong)bundle.Length;
            try { loading = Open(name, ref options, enginePath, precision, engine); }
            catch { bytes.Free(); throw; }
        }

        static Native.OpenOptions OptionsOf(uint threads, int threadPriority, uint queueCapacity, ulong maxMemory)
        {
            return new Native.OpenOptions
            {
                size = (uint)Marshal.SizeOf(typeof(Native.OpenOptions)), threads = threads, maxMemory = maxMemory,
                threadPriority = threadPriority, queueCapacity = queueCapacity,
            };
        }

        ulong Open(string bundle, ref Native.OpenOptions options, string enginePath, string precision, string engine)
        {
            using (var library = new Utf8(enginePath))
            using (var wanted = new Utf8(precision))
            using (var kind = new Utf8(engine))
            using (var path = new Utf8(bundle))
            {
                options.enginePath = library.Pointer;
                options.precision = wanted.Pointer;
                options.engine = kind.Pointer;
                ulong ticket;
                Check(Native.genin_open(path.Pointer, ref options, out worker, out ticket));
                return ticket;
            }
        }

        public ulong Loading { get { return loading; } }

        /// <summary>Ask for a picture; its ticket. A newer request of a slot other than 0 replaces one that waits.</summary>
        public ulong Submit(string prompt, ulong seed = 0, uint steps = 0, uint slot = 0, int priority = 0, uint previews = 0, ulong tag = 0,
            uint width = 0, uint height = 0, float guidanceScale = 0, StartImage image = null)
        {
            using (var text = new Utf8(prompt ?? ""))
            using (var rgba = new Pinned(image == null ? null : image.Rgba))
            using (var mask = new Pinned(image == null ? null : image.Mask))
            {
                var request = new Native.Request
                {
                    size = (uint)Marshal.SizeOf(typeof(Native.Request)), steps = steps, prompt = text.Pointer, promptBytes = (ulong)text.Bytes,
                    seed = seed, slot = slot, priority = priority, previews = previews, tag = tag, width = width, height = height,
                    guidanceScale = guidanceScale,
                };
                if (image != null)
                {
                    long pixels = (long)image.Width * image.Height, sign = image.BottomFirst ? -1 : 1;
                    if (image.Rgba == null || image.Rgba.LongLength != 4 * pixels || (image.Mask != null && image.Mask.LongLength != pixels))
                        throw new GeninException(Result.Argument, "Rgba is not Width × Height × 4 bytes, or Mask not Width × Height");
                    request.image = rgba.Pointer;
                    request.mask = mask.Pointer;
                    request.imageStride = sign * 4 * image.Width;
                    request.maskStride = sign * image.Width;
                    request.imageWidth = image.Width;
                    request.imageHeight = image.Height;
                    request.strength = image.Strength;
                }
                ulong ticket;
                Check(Native.genin_submit(worker, ref request, out ticket));
                return ticket;
            }
        }

        /// <summary>Null until the bundle is loaded.</summary>
        public Info? Info
        {
            get
            {
                var info = new Native.Info { size = (uint)Marshal.SizeOf(typeof(Native.Info)) };
                var result = Native.genin_get_info(worker, ref info);
                if (result == Result.Timeout) return null;
                Check(result);
                return info.Managed();
            }
        }

        /// <summary>What has happened since the last call.</summary>
        public List<Event> Poll()
        {
            var found = new List<Event>();
            lock (room) // all calls share it; genin_poll never waits
            {
                uint count;
                do
                {
                    count = Native.genin_poll(worker, room, (uint)room.Length, (uint)Marshal.SizeOf(typeof(Native.Event)));
                    for (uint i = 0; i < count; ++i) found.Add(room[i].Managed());
                } while (count == room.Length);
            }
            return found;
        }

        /// <summary>The pixels of a finished picture, RGBA, the bottom row first as Unity's textures have it; null if it is gone.</summary>
        public byte[] Take(Event done, bool bottomFirst = true) { return Pixels(done, bottomFirst, false); }

        /// <summary>The same of the latest preview.</summary>
        public byte[] Preview(Event preview, bool bottomFirst = true) { return Pixels(preview, bottomFirst, true); }

        byte[] Pixels(Event e, bool bottomFirst, bool preview)
        {
            var rgba = new byte[(long)e.Width * e.Height * 4];
            long stride = (long)e.Width * 4 * (bottomFirst ? -1 : 1);
            var result = preview
                ? Native.genin_preview(worker, e.Ticket, rgba, stride, (ulong)rgba.Length)
                : Native.genin_take(worker, e.Ticket, rgba, stride, (ulong)rgba.Length);
            if (result == Result.Gone) return null;
            Check(result);
            return rgba;
        }

        /// <summary>End a ticket, or all requests (0); false only for a ticket that is unknown or finished.</summary>
        public bool Cancel(ulong ticket = 0) { return Native.genin_cancel(worker, ticket) == Result.Ok; }

        public Result Wait(ulong ticket, TimeSpan timeout) { return Native.genin_wait(worker, ticket, (ulong)timeout.Ticks * 100); }

        public void Pause(bool paused) { Check(Native.genin_pause(worker, paused ? 1u : 0u)); }

        /// <summary>Percent of the time that networks may run.</summary>
        public void SetShare(uint percent) { Check(Native.genin_set_share(worker, percent)); }

        public void Dispose()
        {
            if (worker != IntPtr.Zero) Native.genin_close(worker);
            worker = IntPtr.Zero;
            if (bytes.IsAllocated) bytes.Free();
        }

        static void Check(Result result)
        {
            if (result == Result.Ok) return;
            var text = new byte[512];
            Native.genin_last_error(text, (ulong)text.Length);
            throw new GeninException(result, Native.Text(text));
        }
    }

    /// <summary>Text as a C string, for the length of a call.</summary>
    struct Utf8 : IDisposable
    {
        public readonly IntPtr Pointer;
        public readonly int Bytes;

        public Utf8(string text)
        {
            Pointer = IntPtr.Zero;
            Bytes = 0;
            if (text == null) return;
            var bytes = Encoding.UTF8.GetBytes(text);
            Bytes = bytes.Length;
            Pointer = Marshal.AllocHGlobal(Bytes + 1);
            Marshal.Copy(bytes, 0, Pointer, Bytes);
            Marshal.WriteByte(Pointer, Bytes, 0);
        }

        public void Dispose() { Marshal.FreeHGlobal(Pointer); }
    }

    /// <summary>An array that stays in its place for the length of a call.</summary>
    struct Pinned : IDisposable
    {
        GCHandle handle;

        public Pinned(byte[] array) { handle = array == null ? default(GCHandle) : GCHandle.Alloc(array, GCHandleType.Pinned); }

        public IntPtr Pointer { get { return handle.IsAllocated ? handle.AddrOfPinnedObject() : IntPtr.Zero; } }

        public void Dispose() { if (handle.IsAllocated) handle.Free(); }
    }

    static class Native
    {
        const CallingConvention Cdecl = CallingConvention.Cdecl;
#if UNITY_IOS && !UNITY_EDITOR
        const string Library = "__Internal";
#else
        const string Library = "genin";
#endif

        [StructLayout(LayoutKind.Sequential)]
        internal struct OpenOptions
        {
            public uint size, threads;
            public IntPtr enginePath, precision;
            public ulong maxMemory;
            public int threadPriority;
            public uint queueCapacity, checkHashes, reserved;
            public IntPtr io, wake, wakeUser, engine, bundleData;
            public ulong bundleBytes;
        }

        [StructLayout(LayoutKind.Sequential)]
        internal struct Request
        {
            public uint size, steps;
            public IntPtr prompt;
            public ulong promptBytes, seed;
            public uint slot;
            public int priority;
            public uint previews;
            public float guidanceScale;
            public ulong tag;
            public uint width, height;
            public IntPtr image, mask;
            public long imageStride, maskStride;
            public uint imageWidth, imageHeight;
            public double strength;
        }

        [StructLayout(LayoutKind.Sequential)]
        internal struct Info
        {
            public uint size, width, height, multiple, steps, takesImages;
            public float guidanceScale;
            public uint reserved;
            [MarshalAs(UnmanagedType.ByValArray, SizeConst = 32)] public byte[] engine, precision;

            public Genin.Info Managed()
            {
                return new Genin.Info
                {
                    Width = width, Height = height, Multiple = multiple, Steps = steps, TakesImages = takesImages != 0,
                    GuidanceScale = guidanceScale, Engine = Text(engine), Precision = Text(precision),
                };
            }
        }

        [StructLayout(LayoutKind.Sequential)]
        internal struct Event
        {
            public uint size;
            public int kind;
            public ulong ticket, tag;
            public int result;
            public uint step, steps, width, height, reserved;
            public ulong queuedNs, drawingNs;
            [MarshalAs(UnmanagedType.ByValArray, SizeConst = 192)] public byte[] message;

            public Genin.Event Managed()
            {
                return new Genin.Event
                {
                    Kind = (EventKind)kind, Ticket = ticket, Tag = tag, Result = (Result)result, Step = step, Steps = steps, Width = width,
                    Height = height, Queued = TimeSpan.FromTicks((long)(queuedNs / 100)), Drawing = TimeSpan.FromTicks((long)(drawingNs / 100)),
                    Message = Text(message),
                };
            }
        }

        internal static string Text(byte[] bytes)
        {
            int length = Array.IndexOf(bytes, (byte)0);
            return Encoding.UTF8.GetString(bytes, 0, length < 0 ? bytes.Length : length);
        }

        [DllImport(Library, CallingConvention = Cdecl)] internal static extern Result genin_open(IntPtr bundle, ref OpenOptions options, out IntPtr worker, out ulong loading);
        [DllImport(Library, CallingConvention = Cdecl)] internal static extern Result genin_submit(IntPtr worker, ref Request request, out ulong ticket);
        [DllImport(Library, CallingConvention = Cdecl)] internal static extern Result genin_get_info(IntPtr worker, ref Info info);
        [DllImport(Library, CallingConvention = Cdecl)] internal static extern Result genin_cancel(IntPtr worker, ulong ticket);
        [DllImport(Library, CallingConvention = Cdecl)] internal static extern uint genin_poll(IntPtr worker, [Out] Event[] events, uint room, uint eventSize);
        [DllImport(Library, CallingConvention = Cdecl)] internal static extern Result genin_wait(IntPtr worker, ulong ticket, ulong timeoutNs);
        [DllImport(Library, CallingConvention = Cdecl)] internal static extern Result genin_pause(IntPtr worker, uint paused);
        [DllImport(Library, CallingConvention = Cdecl)] internal static extern Result genin_set_share(IntPtr worker, uint percent);
        [DllImport(Library, CallingConvention = Cdecl)] internal static extern Result genin_take(IntPtr worker, ulong ticket, [Out] byte[] rgba, long stride, ulong room);
        [DllImport(Library, CallingConvention = Cdecl)] internal static extern Result genin_preview(IntPtr worker, ulong ticket, [Out] byte[] rgba, long stride, ulong room);
        [DllImport(Library, CallingConvention = Cdecl)] internal static extern ulong genin_last_error([Out] byte[] text, ulong room);
        [DllImport(Library, CallingConvention = Cdecl)] internal static extern Result genin_close(IntPtr worker);
    }
}
