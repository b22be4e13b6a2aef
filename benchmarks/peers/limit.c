/* The limit: libjpeg-turbo decoding stored images and copying a random 224x224 crop into a batch, and nothing else.

   limit IMAGES OFFSETS THREADS SECONDS WARMUP_S SAMPLE whole|region

   IMAGES: JPEGs of 256x256 one behind the other; OFFSETS: int64 [N + 1]. No queues, no consumer, no mirroring: each
   thread fills batches of its own. "whole" decodes all of an image, as programs do that call a JPEG library through
   Python; "region" skips rows and blocks outside the crop (jpeg_skip_scanlines, jpeg_crop_scanline). Prints "images seconds cpu_seconds" and writes the first thread's first batch to
   SAMPLE (128 int64 indices, then its pixels). */

#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <jpeglib.h>

enum { SIDE = 256, CROP = 224, BATCH = 128, IMAGE_BYTES = CROP * CROP * 3 };

static const uint8_t *images;
static const int64_t *offsets;
static int64_t num_images;
static volatile int stage; /* 0: warming up, 1: measuring, 2: done */
static const char *sample_path;
static int only_region;

static void *map(const char *path, size_t *size) {
  struct stat info;
  int file = open(path, O_RDONLY);
  if (file < 0 || fstat(file, &info) != 0) {
    perror(path);
    exit(1);
  }
  *size = info.st_size;
  void *at = mmap(NULL, *size, PROT_READ, MAP_SHARED | MAP_POPULATE, file, 0);
  if (at == MAP_FAILED) {
    perror(path);
    exit(1);
  }
  close(file);
  return at;
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

static double cpu(void) {
  struct rusage use;
  getrusage(RUSAGE_SELF, &use);
  return use.ru_utime.tv_sec + use.ru_stime.tv_sec + (use.ru_utime.tv_usec + use.ru_stime.tv_usec) * 1e-6;
}

struct worker {
  pthread_t thread;
  int number;
  int64_t done;
};

static void *work(void *argument) {
  struct worker *self = argument;
  uint64_t random = 0x9e3779b97f4a7c15u * (self->number + 1);
  uint8_t *whole = malloc(SIDE * SIDE * 3), *batch = malloc((size_t)BATCH * IMAGE_BYTES);
  int64_t indices[BATCH];
  JSAMPROW rows[SIDE];
  for (int y = 0; y < SIDE; y++) rows[y] = whole + y * SIDE * 3;
  struct jpeg_decompress_struct jpeg;
  struct jpeg_error_mgr errors;
  jpeg.err = jpeg_std_error(&errors);
  jpeg_create_decompress(&jpeg);
  int sampled = self->number != 0;
  while (stage < 2) {
    for (int i = 0; i < BATCH && stage < 2; i++) {
      random ^= random << 13, random ^= random >> 7, random ^= random << 17;
      int64_t index = (random >> 20) % num_images;
      int top = (random >> 8) % (SIDE - CROP + 1), left = (random >> 14) % (SIDE - CROP + 1);
      indices[i] = index;
      jpeg_mem_src(&jpeg, images + offsets[index], offsets[index + 1] - offsets[index]);
      jpeg_read_header(&jpeg, TRUE);
      jpeg.out_color_space = JCS_RGB;
      jpeg.dct_method = JDCT_ISLOW;
      jpeg.do_fancy_upsampling = TRUE;
      jpeg_start_decompress(&jpeg);
      JDIMENSION first = 0, width = SIDE, last_row = SIDE;
      if (only_region) {
        first = left, width = CROP, last_row = top + CROP;
        jpeg_crop_scanline(&jpeg, &first, &width); /* widens the window to whole blocks */
        jpeg_skip_scanlines(&jpeg, top);
      }
      while (jpeg.output_scanline < last_row)
        jpeg_read_scanlines(&jpeg, rows + jpeg.output_scanline, last_row - jpeg.output_scanline);
      if (only_region)
        jpeg_abort_decompress(&jpeg);
      else
        jpeg_finish_decompress(&jpeg);
      for (int y = 0; y < CROP; y++)
        memcpy(batch + (size_t)i * IMAGE_BYTES + y * CROP * 3, rows[top + y] + (left - first) * 3, CROP * 3);
      if (stage == 1) self->done++;
    }
    if (!sampled && stage < 2) {
      sampled = 1;
      FILE *file = fopen(sample_path, "wb");
      if (file == NULL || fwrite(indices, 8, BATCH, file) != BATCH ||
          fwrite(batch, IMAGE_BYTES, BATCH, file) != BATCH) {
        perror(sample_path);
        exit(1);
      }
      fclose(file);
    }
  }
  jpeg_destroy_decompress(&jpeg);
  free(whole);
  free(batch);
  return NULL;
}

int main(int argc, char **argv) {
  if (argc != 8) {
    fprintf(stderr, "usage: limit IMAGES OFFSETS THREADS SECONDS WARMUP_S SAMPLE whole|region\n");
    return 2;
  }
  size_t size;
  images = map(argv[1], &size);
  offsets = map(argv[2], &size);
  num_images = (int64_t)(size / 8) - 1;
  int num_threads = atoi(argv[3]);
  sample_path = argv[6];
  only_region = strcmp(argv[7], "region") == 0;
  struct worker *workers = calloc(num_threads, sizeof *workers);
  for (int i = 0; i < num_threads; i++) {
    workers[i].number = i;
    pthread_create(&workers[i].thread, NULL, work, &workers[i]);
  }
  usleep((useconds_t)(atof(argv[5]) * 1e6));
  double begin = now(), cpu_begin = cpu();
  stage = 1;
  usleep((useconds_t)(atof(argv[4]) * 1e6));
  stage = 2;
  double seconds = now() - begin, cpu_seconds = cpu() - cpu_begin;
  int64_t total = 0;
  for (int i = 0; i < num_threads; i++) {
    pthread_join(workers[i].thread, NULL);
    total += workers[i].done;
  }
  printf("%lld %.6f %.6f\n", (long long)total, seconds, cpu_seconds);
  return 0;
}
