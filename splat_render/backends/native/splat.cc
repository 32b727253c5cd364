// Gaussian splats to pictures as an XLA FFI call on the CPU.
//
// One call draws all pictures of all worlds: per picture the pose of each body is composed with
// the camera, splats are projected, sorted by depth and blended front to back. Pictures are shared
// out over XLA's own threads; a single picture is shared out by bands of its rows.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

constexpr float kSh0 = 0.28209479177387814f;
constexpr float kLn2 = 0.6931471805599453f;
constexpr int kPoseSize = 19;   // rotation 9, translation 3, camera in its frame 3, opacity, gain 3
constexpr int kQuantities = 11; // of a projected splat
constexpr int kBandRows = 16;   // 64 columns of 6 planes: 28 kB
constexpr int kMaxLanes = 8;

// Planes of a band's row: light left, red, green, blue, depth (its sum or its median), and the
// background's depth.
enum Plane { kLight, kRed0, kGreen0, kBlue0, kDepth, kLimit, kPlanes };

struct Splats {
  const float *means, *quats, *scales, *opacities, *sh;
  const int32_t* body_id;
  int64_t count;
  int coefficients, bodies;
};

struct Settings {
  bool antialiased;
  float alpha_max, alpha_min, transmittance_min, blur, near;
  float reach_offset;  // -log2(alpha_min) and a margin for rough_log2
  float color[3];
  float far;  // depth of nothing at all; above 0 depth is the median, else the weighted sum
};

// A camera: intrinsics and the range of x/z and y/z inside which the Jacobian is taken.
struct View {
  int width, height;
  float fx, fy, cx, cy, left, right, top, bottom;
};

struct Pose {
  float value[kPoseSize];
};

struct Drawn {
  float value[kQuantities];
  int16_t box[4];  // first and last column, first and last row
};

struct Packed {
  std::vector<float> data;
  std::vector<int32_t> bodies, shared;
  int64_t stride = 0;
};

// What a thread needs for one picture; kept between calls, so that nothing is allocated in them.
struct Scratch {
  std::vector<Pose> poses;
  std::vector<Drawn> drawn;
  std::vector<uint64_t> order, sorted;
  std::vector<std::vector<uint32_t>> lists;  // per band, nearest first
};

namespace baseline {
#define LANES 4
#include "kernel.h"
#undef LANES
}  // namespace baseline

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
namespace avx2 {
#define LANES 8
#include "kernel.h"
#undef LANES
}  // namespace avx2
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

// The kernel of one instruction set.
struct Kernel {
  decltype(&baseline::pack) pack;
  decltype(&baseline::project_all) project_all;
  decltype(&baseline::draw_band) draw_band;
};

constexpr Kernel kBaseline{baseline::pack, baseline::project_all, baseline::draw_band};

const Kernel& best_kernel() {
#if defined(__x86_64__)
  static constexpr Kernel kAvx2{avx2::pack, avx2::project_all, avx2::draw_band};
  static const bool supported = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (supported) return kAvx2;
#endif
  return kBaseline;
}

// Everything one call draws.
struct Job {
  const Kernel* kernel;
  Splats splats;
  Settings set;
  Packed packed;
  int64_t worlds, cameras, looks;
  int width, height;
  const float *xpos, *xquat, *opacity, *gain, *viewmats, *Ks, *look_rgb, *look_depth;
  const int32_t* look;
  uint8_t* rgb8;   // one of these two
  float* rgb;
  float *depth, *alpha;
};

// Calls work(0) ... work(n - 1) on the pool's threads and on this one; returns when all are done.
//
// This thread takes part and waits only for calls that another thread has begun, so it cannot wait
// for a thread that waits for it, however many handlers share the pool.
void for_each(ffi::ThreadPool& pool, int64_t n, std::function<void(int64_t)> work) {
  struct Shared {
    std::function<void(int64_t)> work;
    int64_t n;
    std::atomic<int64_t> next{0}, finished{0};
    std::mutex mutex;
    std::condition_variable done;
    void run() {
      for (int64_t i = next++; i < n; i = next++) {
        work(i);
        if (++finished < n) continue;
        std::lock_guard<std::mutex> lock(mutex);
        done.notify_all();
      }
    }
  };
  auto shared = std::make_shared<Shared>();
  shared->work = std::move(work);
  shared->n = n;
  const int64_t helpers = std::min(pool.num_threads(), n) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule([shared] { shared->run(); });
  shared->run();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->done.wait(lock, [&] { return shared->finished == n; });
}

void rotation_of(const float* q, float* r) {
  const float w = q[0], x = q[1], y = q[2], z = q[3];
  const float m[9] = {1 - 2 * (y * y + z * z), 2 * (x * y - w * z),     2 * (x * z + w * y),
                      2 * (x * y + w * z),     1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
                      2 * (x * z - w * y),     2 * (y * z + w * x),     1 - 2 * (x * x + y * y)};
  std::copy(m, m + 9, r);
}

// Pose of every body in the camera's frame, and the camera in the body's.
void place_bodies(const Job& job, int64_t world, const float* view, std::vector<Pose>* poses) {
  const int64_t bodies = job.splats.bodies;
  poses->resize(bodies);
  for (int64_t b = 0; b < bodies; ++b) {
    const float* at = job.xpos + 3 * (world * bodies + b);
    float r[9], *o = (*poses)[b].value;
    rotation_of(job.xquat + 4 * (world * bodies + b), r);
    for (int i = 0; i < 3; ++i) {
      const float* v = view + 4 * i;
      for (int k = 0; k < 3; ++k) o[3 * i + k] = v[0] * r[k] + v[1] * r[3 + k] + v[2] * r[6 + k];
      o[9 + i] = v[0] * at[0] + v[1] * at[1] + v[2] * at[2] + v[3];
    }
    for (int k = 0; k < 3; ++k) o[12 + k] = -(o[k] * o[9] + o[3 + k] * o[10] + o[6 + k] * o[11]);
    o[15] = job.opacity[world * bodies + b];
    for (int k = 0; k < 3; ++k) o[16 + k] = job.gain[3 * (world * bodies + b) + k];
  }
}

View view_of(const Job& job, const float* K) {
  View v{job.width, job.height, K[0], K[4], K[2], K[5]};
  const float margin_x = 0.15f * v.width / v.fx, margin_y = 0.15f * v.height / v.fy;
  v.left = -v.cx / v.fx - margin_x;
  v.right = (v.width - v.cx) / v.fx + margin_x;
  v.top = -v.cy / v.fy - margin_y;
  v.bottom = (v.height - v.cy) / v.fy + margin_y;
  return v;
}

// Radix sort by the upper 32 bits; equal depths keep the order of the arrays.
void sort_by_depth(Scratch* work) {
  constexpr int kBits = 11, kPasses = 3, kBuckets = 1 << kBits;
  const size_t n = work->order.size();
  work->sorted.resize(n);
  std::vector<uint64_t>&from = work->order, &to = work->sorted;
  uint32_t counts[kPasses][kBuckets] = {};
  for (const uint64_t item : from)
    for (int p = 0; p < kPasses; ++p) ++counts[p][(item >> (32 + kBits * p)) & (kBuckets - 1)];
  for (int p = 0; p < kPasses; ++p) {
    const int shift = 32 + kBits * p;
    uint32_t* count = counts[p];
    if (n == 0 || count[(from[0] >> shift) & (kBuckets - 1)] == n) continue;  // all alike
    uint32_t sum = 0;
    for (int b = 0; b < kBuckets; ++b) {
      const uint32_t here = count[b];
      count[b] = sum;
      sum += here;
    }
    for (const uint64_t item : from) to[count[(item >> shift) & (kBuckets - 1)]++] = item;
    from.swap(to);
  }
}

// Files each splat under the bands it reaches, nearest first.
void fill_bands(int bands, Scratch* work) {
  work->lists.resize(bands);
  for (auto& list : work->lists) list.clear();
  for (const uint64_t item : work->order) {
    const uint32_t index = static_cast<uint32_t>(item);
    const Drawn& splat = work->drawn[index];
    for (int b = splat.box[2] / kBandRows; b <= splat.box[3] / kBandRows; ++b)
      work->lists[b].push_back(index);
  }
}

// Rounds to the nearest of 256 levels; what is not a number becomes 0.
inline uint8_t level_of(float x) {
  x = x > 0.0f ? x : 0.0f;
  x = (x < 1.0f ? x : 1.0f) * 255.0f + 12582912.0f;  // rounded into the low bits
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return static_cast<uint8_t>(bits);
}

// Writes a row of the picture: what the splats gave and what is left of the light behind them.
void finish_row(const Job& job, const float* row, int stride, const float* behind,
                const float* behind_depth, int64_t pixel) {
  for (int x = 0; x < job.width; ++x) {
    const float light = std::fabs(row[x]);
    const float* color = behind ? behind + 3 * x : job.set.color;
    float rgb[3];
    for (int c = 0; c < 3; ++c) rgb[c] = row[(kRed0 + c) * stride + x] + light * color[c];
    if (job.rgb8)
      for (int c = 0; c < 3; ++c) job.rgb8[3 * (pixel + x) + c] = level_of(rgb[c]);
    else
      for (int c = 0; c < 3; ++c) job.rgb[3 * (pixel + x) + c] = rgb[c];
    const bool surface = behind_depth && behind_depth[x] < INFINITY;
    float depth = row[kDepth * stride + x] + (surface ? light * behind_depth[x] : 0.0f);
    if (job.set.far > 0.0f) {
      depth = row[kDepth * stride + x];  // 0 where no splat takes the light below a half
      if (depth == 0.0f) depth = surface ? behind_depth[x] : job.set.far;
    }
    job.depth[pixel + x] = depth;
    job.alpha[pixel + x] = behind ? 1.0f : 1.0f - light;
  }
}

// Draws the rows of one band of a picture whose splats are projected and filed.
void draw_rows(const Job& job, int64_t picture, int band, const Scratch& work) {
  static thread_local std::vector<float> planes;
  const int first = band * kBandRows, rows = std::min(kBandRows, job.height - first);
  const int stride = job.width + kMaxLanes;
  const int64_t pixels = static_cast<int64_t>(job.width) * job.height;
  const float *behind = nullptr, *behind_depth = nullptr;
  if (job.looks) {
    const int64_t world = picture / job.cameras;
    const int64_t look = std::clamp<int64_t>(job.look[world], 0, job.looks - 1);
    const int64_t at = (look * job.cameras + picture % job.cameras) * pixels;
    behind = job.look_rgb + 3 * at;
    behind_depth = job.look_depth + at;
  }
  planes.assign(static_cast<size_t>(rows) * stride * kPlanes, 0.0f);
  for (int r = 0; r < rows; ++r) {
    float* row = planes.data() + static_cast<size_t>(r) * stride * kPlanes;
    std::fill(row, row + stride, 1.0f);
    if (behind) {
      const float* limit = behind_depth + static_cast<int64_t>(first + r) * job.width;
      std::copy(limit, limit + job.width, row + kLimit * stride);
    }
  }
  job.kernel->draw_band(work.drawn.data(), work.lists[band], job.set, first, rows, planes.data(),
                        stride, behind != nullptr);
  for (int r = 0; r < rows; ++r) {
    const int64_t at = static_cast<int64_t>(first + r) * job.width;
    finish_row(job, planes.data() + static_cast<size_t>(r) * stride * kPlanes, stride,
               behind ? behind + 3 * at : nullptr, behind ? behind_depth + at : nullptr,
               picture * pixels + at);
  }
}

// Projects, sorts and files the splats of one picture.
void prepare(const Job& job, int64_t picture, int bands, Scratch* work) {
  const float* view = job.viewmats + 16 * picture;
  place_bodies(job, picture / job.cameras, view, &work->poses);
  job.kernel->project_all(job.packed, job.splats.coefficients,
                          view_of(job, job.Ks + 9 * picture), job.set, work);
  sort_by_depth(work);
  fill_bands(bands, work);
}

void draw_all(const Job& job, ffi::ThreadPool& pool) {
  static thread_local Scratch own;
  const int bands = (job.height + kBandRows - 1) / kBandRows;
  const int64_t pictures = job.worlds * job.cameras;
  if (pictures == 1) {
    Scratch& work = own;
    prepare(job, 0, bands, &work);
    for_each(pool, bands, [&](int64_t band) { draw_rows(job, 0, static_cast<int>(band), work); });
    return;
  }
  for_each(pool, pictures, [&](int64_t picture) {
    Scratch& work = own;  // of the thread that runs this
    prepare(job, picture, bands, &work);
    for (int band = 0; band < bands; ++band) draw_rows(job, picture, band, work);
  });
}

#include "gradient.h"

using Floats = ffi::Buffer<ffi::F32>;
using Indices = ffi::Buffer<ffi::S32>;

// Shapes are checked where the call is built (splat_render/cpu.py).
ffi::Error rasterize(const Kernel& kernel, ffi::ThreadPool pool, Floats means, Floats quats,
                     Floats scales, Floats opacities, Floats sh, Indices body_id, Floats xpos,
                     Floats xquat, Floats opacity, Floats gain, Floats viewmats, Floats Ks,
                     Floats look_rgb, Floats look_depth, Indices look, ffi::Result<ffi::AnyBuffer> rgb,
                     ffi::ResultBuffer<ffi::F32> depth, ffi::ResultBuffer<ffi::F32> alpha,
                     bool antialiased, ffi::Span<const float> numbers) {
  // Kept between calls by the calling thread; other threads only read it while that one waits.
  static thread_local Packed packed;
  Job job{};
  job.kernel = &kernel;
  job.splats = {means.typed_data(), quats.typed_data(), scales.typed_data(),
                opacities.typed_data(), sh.typed_data(), body_id.typed_data(),
                means.dimensions()[0], static_cast<int>(sh.dimensions()[1]),
                static_cast<int>(xpos.dimensions()[1])};
  if (job.splats.bodies == 0) job.splats.count = 0;
  job.worlds = viewmats.dimensions()[0];
  job.cameras = viewmats.dimensions()[1];
  job.looks = look_rgb.dimensions()[0];
  job.height = static_cast<int>(depth->dimensions()[2]);
  job.width = static_cast<int>(depth->dimensions()[3]);
  job.set = {antialiased, numbers[0], numbers[1], numbers[2], numbers[3], numbers[4],
             0.02f - std::log2(numbers[1]), {numbers[5], numbers[6], numbers[7]}, numbers[8]};
  job.xpos = xpos.typed_data();
  job.xquat = xquat.typed_data();
  job.opacity = opacity.typed_data();
  job.gain = gain.typed_data();
  job.viewmats = viewmats.typed_data();
  job.Ks = Ks.typed_data();
  job.look_rgb = look_rgb.typed_data();
  job.look_depth = look_depth.typed_data();
  job.look = look.typed_data();
  const bool levels = rgb->element_type() == ffi::U8;
  job.rgb8 = levels ? static_cast<uint8_t*>(rgb->untyped_data()) : nullptr;
  job.rgb = levels ? nullptr : static_cast<float*>(rgb->untyped_data());
  job.depth = depth->typed_data();
  job.alpha = alpha->typed_data();
  job.packed.data.swap(packed.data);
  job.packed.bodies.swap(packed.bodies);
  job.packed.shared.swap(packed.shared);
  kernel.pack(job.splats, &job.packed);
  draw_all(job, pool);
  packed = std::move(job.packed);
  return ffi::Error::Success();
}

using Result = ffi::ResultBuffer<ffi::F32>;

int64_t product(ffi::Span<const int64_t> sizes) {
  int64_t all = 1;
  for (const int64_t size : sizes) all *= size;
  return all;
}

// Shapes are those of splat_render/backends/cpu.py; any axes of pictures come first.
ffi::Error blend_gradient(ffi::ThreadPool pool, Floats means, Floats conics, Floats opacities,
                          Floats depths, Floats colors, Floats limit, Floats d_rgb, Floats d_depth,
                          Floats d_left, Result g_means, Result g_conics, Result g_opacities,
                          Result g_depths, Result g_colors, ffi::Span<const float> numbers) {
  GradientJob job{};
  const auto sizes = limit.dimensions();
  job.pictures = product(sizes.first(sizes.size() - 2));
  job.height = static_cast<int>(sizes[sizes.size() - 2]);
  job.width = static_cast<int>(sizes[sizes.size() - 1]);
  job.splats = opacities.dimensions().back();
  job.alpha_max = numbers[0];
  job.alpha_min = numbers[1];
  job.transmittance_min = numbers[2];
  job.means = means.typed_data();
  job.conics = conics.typed_data();
  job.opacities = opacities.typed_data();
  job.depths = depths.typed_data();
  job.colors = colors.typed_data();
  job.limit = limit.typed_data();
  job.d_rgb = d_rgb.typed_data();
  job.d_depth = d_depth.typed_data();
  job.d_left = d_left.typed_data();
  job.g_means = g_means->typed_data();
  job.g_conics = g_conics->typed_data();
  job.g_opacities = g_opacities->typed_data();
  job.g_depths = g_depths->typed_data();
  job.g_colors = g_colors->typed_data();
  gradient_of(job, pool);
  return ffi::Error::Success();
}

}  // namespace

// The same call on the best instruction set of this machine, and on the one that all have.
#define BIND()                                                                    \
  ffi::Ffi::Bind()                                                                \
      .Ctx<ffi::ThreadPool>()                                                     \
      .Arg<Floats>().Arg<Floats>().Arg<Floats>().Arg<Floats>().Arg<Floats>()      \
      .Arg<Indices>()                                                             \
      .Arg<Floats>().Arg<Floats>().Arg<Floats>().Arg<Floats>().Arg<Floats>()      \
      .Arg<Floats>().Arg<Floats>().Arg<Floats>().Arg<Indices>()                   \
      .Ret<ffi::AnyBuffer>().Ret<Floats>().Ret<Floats>()                          \
      .Attr<bool>("antialiased")                                                  \
      .Attr<ffi::Span<const float>>("numbers")

XLA_FFI_DEFINE_HANDLER_SYMBOL(SplatRender,
                              [](auto... args) { return rasterize(best_kernel(), args...); },
                              BIND());
XLA_FFI_DEFINE_HANDLER_SYMBOL(SplatRenderBaseline,
                              [](auto... args) { return rasterize(kBaseline, args...); }, BIND());

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    SplatBlendGradient, blend_gradient,
    ffi::Ffi::Bind()
        .Ctx<ffi::ThreadPool>()
        .Arg<Floats>().Arg<Floats>().Arg<Floats>().Arg<Floats>().Arg<Floats>()
        .Arg<Floats>().Arg<Floats>().Arg<Floats>().Arg<Floats>()
        .Ret<Floats>().Ret<Floats>().Ret<Floats>().Ret<Floats>().Ret<Floats>()
        .Attr<ffi::Span<const float>>("numbers"));
