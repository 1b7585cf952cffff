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

    /// <summary>A bundle, a drawing thread and its queue. Every method may be called from any thread, except Dispose.</summary>
    public sealed class Painter : IDisposable
    {
        IntPtr worker;
        readonly ulong loading;
        readonly Native.Event[] room = new Native.Event[16];

        /// <summary>Returns at once; loading is the ticket Loading.</summary>
        public Painter(string bundle, string enginePath = null, string precision = null, uint threads = 1, int threadPriority = -1,
            uint queueCapacity = 64, ulong maxMemory = 0)
        {
            var options = new Native.OpenOptions
            {
                size = (uint)Marshal.SizeOf(typeof(Native.OpenOptions)), threads = threads, maxMemory = maxMemory,
                threadPriority = threadPriority, queueCapacity = queueCapacity,
            };
            using (var engine = new Utf8(enginePath))
            using (var wanted = new Utf8(precision))
            using (var path = new Utf8(bundle))
            {
                options.enginePath = engine.Pointer;
                options.precision = wanted.Pointer;
                Check(Native.genin_open(path.Pointer, ref options, out worker, out loading));
            }
        }

        public ulong Loading { get { return loading; } }

        /// <summary>Ask for a picture; its ticket. A newer request of a slot other than 0 replaces one that waits.</summary>
        public ulong Submit(string prompt, ulong seed = 0, uint steps = 0, uint slot = 0, int priority = 0, uint previews = 0, ulong tag = 0)
        {
            using (var text = new Utf8(prompt ?? ""))
            {
                var request = new Native.Request
                {
                    size = (uint)Marshal.SizeOf(typeof(Native.Request)), steps = steps, prompt = text.Pointer, promptBytes = (ulong)text.Bytes,
                    seed = seed, slot = slot, priority = priority, previews = previews, tag = tag,
                };
                ulong ticket;
                Check(Native.genin_submit(worker, ref request, out ticket));
                return ticket;
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

    static class Native
    {
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
            public IntPtr io, wake, wakeUser;
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

        [DllImport(Library)] internal static extern Result genin_open(IntPtr bundle, ref OpenOptions options, out IntPtr worker, out ulong loading);
        [DllImport(Library)] internal static extern Result genin_submit(IntPtr worker, ref Request request, out ulong ticket);
        [DllImport(Library)] internal static extern Result genin_cancel(IntPtr worker, ulong ticket);
        [DllImport(Library)] internal static extern uint genin_poll(IntPtr worker, [Out] Event[] events, uint room, uint eventSize);
        [DllImport(Library)] internal static extern Result genin_wait(IntPtr worker, ulong ticket, ulong timeoutNs);
        [DllImport(Library)] internal static extern Result genin_pause(IntPtr worker, uint paused);
        [DllImport(Library)] internal static extern Result genin_set_share(IntPtr worker, uint percent);
        [DllImport(Library)] internal static extern Result genin_take(IntPtr worker, ulong ticket, [Out] byte[] rgba, long stride, ulong room);
        [DllImport(Library)] internal static extern Result genin_preview(IntPtr worker, ulong ticket, [Out] byte[] rgba, long stride, ulong room);
        [DllImport(Library)] internal static extern ulong genin_last_error([Out] byte[] text, ulong room);
        [DllImport(Library)] internal static extern Result genin_close(IntPtr worker);
    }
}
