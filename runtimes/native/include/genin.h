/* genin: draw pictures from a bundle inside another program.
 *
 * C99 and C++17. Nothing but genin_* is exported. No function throws, aborts, prints, changes the locale or installs a signal handler.
 * Every function may be called from any thread; genin_submit, genin_poll, genin_cancel, genin_take and genin_preview never wait.
 *
 *     genin_worker *worker; genin_ticket loading, ticket;
 *     genin_open("student.genin", NULL, &worker, &loading);
 *     genin_request request; genin_request_init(&request, sizeof request);
 *     request.prompt = "a ninja"; request.prompt_bytes = 7; request.seed = 7;
 *     genin_submit(worker, &request, &ticket);
 *     ... every frame: genin_poll(worker, events, 8, sizeof events[0]) ... on GENIN_DONE: genin_take(worker, ticket, pixels, stride, room)
 *     genin_close(worker);
 *
 * docs/embedding.md has the rules: who may call what when, what happens to a ticket, what is guaranteed.
 */
#ifndef GENIN_H
#define GENIN_H
#include <stdint.h>
#if defined(GENIN_BUILD) && defined(_WIN32)
#define GENIN_API __declspec(dllexport)
#elif defined(_WIN32)
#define GENIN_API __declspec(dllimport)
#else
#define GENIN_API __attribute__((visibility("default")))
#endif
#ifdef __cplusplus
extern "C" {
#endif

#define GENIN_ABI 1u /* of this header; fields are only ever added at the end of a struct */

typedef struct genin_worker genin_worker; /* a bundle, one drawing thread, its queue */
typedef uint64_t genin_ticket;            /* 0 is none; never used twice in a process, so that an old one is merely GONE */

typedef int32_t genin_result; /* 0 is good, negative an error; values never change their meaning */
#define GENIN_OK 0
#define GENIN_E_ARGUMENT (-1)   /* null, a wrong size, a value out of range: the message names it */
#define GENIN_E_BUNDLE (-2)     /* unreadable, a wrong hash, an unknown format */
#define GENIN_E_ENGINE (-3)     /* the engine is missing, or it refused or failed */
#define GENIN_E_MEMORY (-4)     /* would pass max_memory, or the system refused */
#define GENIN_E_CANCELLED (-5)  /* by genin_cancel or genin_close */
#define GENIN_E_SUPERSEDED (-6) /* a newer request of the same slot took its place */
#define GENIN_E_FULL (-7)       /* the queue is full: nothing was taken */
#define GENIN_E_GONE (-8)       /* the ticket is unknown, or already taken */
#define GENIN_E_TIMEOUT (-9)    /* genin_wait: not finished yet */
#define GENIN_E_PROMPT (-10)    /* not UTF-8 */

/* Every struct begins with its size as the caller's compiler sees it. Set all of one with its *_init, then change what you want. */

typedef struct genin_io { /* optional: the host's own archive, where `bundle` is a folder's name or a .genin file's; called on the drawing thread */
  uint32_t size, reserved;
  void *user;
  int64_t (*length)(void *user, const char *path); /* below 0: no such file */
  int64_t (*read)(void *user, const char *path, uint64_t offset, void *to, uint64_t bytes);
} genin_io;

typedef struct genin_open_options {
  uint32_t size;
  uint32_t threads;        /* of the engine; 0 is 1 */
  const char *engine_path; /* the engine's shared library; NULL: GENIN_ENGINE_PATH, else beside this library, else the system's */
  const char *precision;   /* "fp32", "fp16", "int8", ...; NULL: the most exact that the bundle has */
  uint64_t max_memory;     /* bytes that weights and drawing may take, on ONNX Runtime; 0: no limit. Beyond it: GENIN_E_MEMORY */
  int32_t thread_priority; /* 0 as the caller, -1 below it, -2 only when nothing else wants the processor (Windows: of the drawing thread alone) */
  uint32_t queue_capacity; /* requests that may wait; 0 is 64 */
  uint32_t check_hashes;   /* 0: of what is read; 1: of every file before it is ready; 2: never */
  uint32_t reserved;
  const genin_io *io;         /* NULL: the file system */
  void (*wake)(void *user);   /* may only signal: called on the drawing thread, or within genin_submit and genin_cancel, when an event has come */
  void *wake_user;
  const char *engine; /* "onnxruntime" or "openvino"; NULL: whichever engine_path is, else "onnxruntime" */
  const void *bundle_data; /* a .genin file in memory, which must stay until genin_close; `bundle` is its name in messages. NULL: on disk, or io */
  uint64_t bundle_bytes;
} genin_open_options;

typedef struct genin_request {
  uint32_t size;
  uint32_t steps;        /* 0: the bundle's own */
  const char *prompt;    /* UTF-8, prompt_bytes long; copied before the call returns */
  uint64_t prompt_bytes;
  uint64_t seed;         /* the same seed draws the same picture in every language */
  uint32_t slot;         /* not 0: a newer request of this slot replaces a waiting one and cancels a running one */
  int32_t priority;      /* higher first, then first come */
  uint32_t previews;     /* 0: none; n: after every n-th step */
  float guidance_scale;  /* 0: the bundle's own */
  uint64_t tag;          /* yours; comes back with every event */
  uint32_t width, height; /* in pixels; 0: the bundle's own. Others need a bundle of any size (genin_info.multiple) */
  /* An image to start from: RGBA, 8 bits, rows image_stride bytes apart (0: without gaps; below 0: the bottom row first); copied before
     the call returns. It is laid on white where it is transparent, scaled until it covers the picture, and cut around its centre. NULL: start from noise. */
  const void *image;
  const void *mask; /* NULL, or a byte a pixel of the image: 255 is drawn anew, 0 keeps the image's own pixel to the bit */
  int64_t image_stride, mask_stride;
  uint32_t image_width, image_height;
  double strength; /* how much is drawn anew, above 0 and at most 1; 0: 0.8, or 1 with a mask */
} genin_request;

typedef enum genin_event_kind { GENIN_READY = 1, GENIN_PREVIEW, GENIN_DONE, GENIN_FAILED } genin_event_kind;

typedef struct genin_event {
  uint32_t size;
  int32_t kind; /* genin_event_kind */
  genin_ticket ticket;
  uint64_t tag;
  genin_result result;
  uint32_t step, steps, width, height;
  uint32_t reserved;
  uint64_t queued_ns, drawing_ns;
  char message[192]; /* what, where, what to do; UTF-8, ends with 0 */
} genin_event;

typedef struct genin_stats {
  uint32_t size, waiting;
  uint64_t done, cancelled, failed;
  uint64_t engine_ns, other_ns; /* of finished pictures: inside the engine, and all else */
  uint64_t memory_now, memory_peak; /* bytes of what counts for max_memory; 0 where the engine does not say */
} genin_stats;

typedef struct genin_info { /* of a bundle that is loaded */
  uint32_t size;
  uint32_t width, height;  /* of its pictures, in pixels */
  uint32_t multiple;       /* pictures of other sizes have sides that are multiples of this, up to 2,048; 0: there are none */
  uint32_t steps;          /* unless a request says otherwise */
  uint32_t takes_images;   /* 1: requests may start from an image */
  float guidance_scale;    /* unless a request says otherwise; 1: none, or in the weights */
  uint32_t reserved;
  char engine[32];         /* "onnxruntime 1.32.0" */
  char precision[32];      /* "fp16" */
} genin_info;

GENIN_API uint32_t genin_abi(void);        /* GENIN_ABI of the library that was found */
GENIN_API const char *genin_version(void); /* "0.1.0, Unicode 14.0.0" */
GENIN_API void genin_open_options_init(genin_open_options *options, uint32_t size);
GENIN_API void genin_request_init(genin_request *request, uint32_t size);

/* Returns at once. Loading is a ticket like any other: GENIN_READY or GENIN_FAILED comes by genin_poll, and it can be cancelled. */
GENIN_API genin_result genin_open(const char *bundle, const genin_open_options *options, genin_worker **out, genin_ticket *loading);

GENIN_API genin_result genin_submit(genin_worker *worker, const genin_request *request, genin_ticket *out);
GENIN_API genin_result genin_cancel(genin_worker *worker, genin_ticket ticket); /* 0: all requests; inside a network at the next node */
GENIN_API uint32_t genin_poll(genin_worker *worker, genin_event *events, uint32_t room, uint32_t event_size);
GENIN_API genin_result genin_wait(genin_worker *worker, genin_ticket ticket, uint64_t timeout_ns); /* its result, or TIMEOUT */
GENIN_API genin_result genin_pause(genin_worker *worker, uint32_t paused); /* nothing new begins; what is drawn is finished */
GENIN_API genin_result genin_set_share(genin_worker *worker, uint32_t percent); /* of the time that networks may run, 1 to 100 */

/* Pixels go into the caller's memory: RGBA, 8 bits, rows `stride` bytes apart; a negative stride starts at the bottom row. */
GENIN_API genin_result genin_take(genin_worker *worker, genin_ticket ticket, void *rgba, int64_t stride, uint64_t room);
GENIN_API genin_result genin_preview(genin_worker *worker, genin_ticket ticket, void *rgba, int64_t stride, uint64_t room);

GENIN_API genin_result genin_get_stats(genin_worker *worker, genin_stats *out);
GENIN_API genin_result genin_get_info(genin_worker *worker, genin_info *out); /* TIMEOUT until the bundle is loaded */
GENIN_API uint64_t genin_last_error(char *text, uint64_t room); /* of this thread; returns the bytes that it needs */
GENIN_API genin_result genin_close(genin_worker *worker);       /* cancels, waits for the drawing thread, frees; NULL is nothing */

#ifdef __cplusplus
}
#endif
#endif
