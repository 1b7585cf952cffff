-- genin's native library for LuaJIT (LÖVE, and any other host with its FFI).
--
--     local painter = genin.open("student-1step")
--     local ticket = painter:submit("a ninja in the rain", { seed = 7 })
--     for _, event in ipairs(painter:poll()) do                 -- every frame
--       if event.kind == "done" then image = love.graphics.newImage(painter:take(event)) end
--     end
--
-- No call waits, except wait and close. docs/embedding.md has the rules.
local ffi = require("ffi")

ffi.cdef([[
typedef struct genin_worker genin_worker;
typedef struct { uint32_t size, threads; const char *engine_path, *precision; uint64_t max_memory; int32_t thread_priority;
  uint32_t queue_capacity, check_hashes, reserved; const void *io; void *wake, *wake_user; } genin_open_options;
typedef struct { uint32_t size, steps; const char *prompt; uint64_t prompt_bytes, seed; uint32_t slot; int32_t priority; uint32_t previews;
  float guidance_scale; uint64_t tag; } genin_request;
typedef struct { uint32_t size; int32_t kind; uint64_t ticket, tag; int32_t result; uint32_t step, steps, width, height, reserved;
  uint64_t queued_ns, drawing_ns; char message[192]; } genin_event;
int32_t genin_open(const char *bundle, const genin_open_options *options, genin_worker **out, uint64_t *loading);
int32_t genin_submit(genin_worker *worker, const genin_request *request, uint64_t *out);
int32_t genin_cancel(genin_worker *worker, uint64_t ticket);
uint32_t genin_poll(genin_worker *worker, genin_event *events, uint32_t room, uint32_t event_size);
int32_t genin_wait(genin_worker *worker, uint64_t ticket, uint64_t timeout_ns);
int32_t genin_pause(genin_worker *worker, uint32_t paused);
int32_t genin_set_share(genin_worker *worker, uint32_t percent);
int32_t genin_take(genin_worker *worker, uint64_t ticket, void *rgba, int64_t stride, uint64_t room);
int32_t genin_preview(genin_worker *worker, uint64_t ticket, void *rgba, int64_t stride, uint64_t room);
uint64_t genin_last_error(char *text, uint64_t room);
int32_t genin_close(genin_worker *worker);
]])

local genin = {}
local Painter = {}
Painter.__index = Painter

local KINDS = { "ready", "preview", "done", "failed" }
local RESULTS = { [0] = "ok", "argument", "bundle", "engine", "memory", "cancelled", "superseded", "full", "gone", "timeout", "prompt" }
local ROOM = 16

local library -- loaded when a painter is opened: genin.library says from where

local function check(code)
  if code ~= 0 then
    local text = ffi.new("char[512]")
    library.genin_last_error(text, 512)
    error(ffi.string(text), 3)
  end
end

-- A painter of a bundle; returns at once. Options: engine_path, precision, threads, thread_priority, queue_capacity, max_memory.
function genin.open(bundle, options)
  library = library or ffi.load(genin.library or "genin")
  options = options or {}
  local own = ffi.new("genin_open_options")
  own.size = ffi.sizeof(own)
  own.threads, own.thread_priority = options.threads or 1, options.thread_priority or -1
  own.engine_path, own.precision = options.engine_path, options.precision
  own.queue_capacity, own.max_memory = options.queue_capacity or 0, options.max_memory or 0
  local worker, loading = ffi.new("genin_worker *[1]"), ffi.new("uint64_t[1]")
  check(library.genin_open(bundle, own, worker, loading))
  local painter = { worker = ffi.gc(worker[0], library.genin_close), loading = loading[0], events = ffi.new("genin_event[?]", ROOM) }
  return setmetatable(painter, Painter)
end

-- Ask for a picture; its ticket. Options: seed, steps, slot, priority, previews, tag (numbers).
function Painter:submit(prompt, options)
  options = options or {}
  local request, ticket = ffi.new("genin_request"), ffi.new("uint64_t[1]")
  request.size, request.prompt, request.prompt_bytes = ffi.sizeof(request), prompt, #prompt
  request.seed, request.steps, request.slot = options.seed or 0, options.steps or 0, options.slot or 0
  request.priority, request.previews, request.tag = options.priority or 0, options.previews or 0, options.tag or 0
  check(library.genin_submit(self.worker, request, ticket))
  return ticket[0]
end

-- What has happened since: a list of tables with kind, ticket, tag, result, width, height, step, steps, message.
function Painter:poll()
  local found = {}
  repeat
    local count = library.genin_poll(self.worker, self.events, ROOM, ffi.sizeof("genin_event"))
    for i = 0, count - 1 do
      local event = self.events[i]
      found[#found + 1] = {
        kind = KINDS[event.kind], ticket = event.ticket, tag = tonumber(event.tag), result = RESULTS[-event.result], step = event.step,
        steps = event.steps, width = event.width, height = event.height, message = ffi.string(event.message),
      }
    end
  until count < ROOM
  return found
end

local function pixels(self, event, call)
  local data = love.image.newImageData(event.width, event.height)
  local code = call(self.worker, event.ticket, data:getFFIPointer(), event.width * 4, data:getSize())
  if code == 0 then return data end
end

-- The finished picture as love.ImageData, or nil if it is gone; the same of the latest preview.
function Painter:take(event) return pixels(self, event, library.genin_take) end
function Painter:preview(event) return pixels(self, event, library.genin_preview) end

-- End a ticket, or all requests without one; false only for a ticket that is unknown or finished.
function Painter:cancel(ticket) return library.genin_cancel(self.worker, ticket or 0) == 0 end
function Painter:wait(ticket, seconds) return RESULTS[-library.genin_wait(self.worker, ticket, (seconds or 60) * 1e9)] end
function Painter:pause(paused) check(library.genin_pause(self.worker, paused and 1 or 0)) end
function Painter:set_share(percent) check(library.genin_set_share(self.worker, percent)) end

function Painter:close()
  if self.worker then
    ffi.gc(self.worker, nil)
    library.genin_close(self.worker)
    self.worker = nil
  end
end

return genin
