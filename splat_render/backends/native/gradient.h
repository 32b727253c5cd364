// The gradient of one picture with respect to its projected splats.
//
// Two passes over the splats, nearest first, as the picture itself is drawn. The first finds what
// each pixel gathers in all, so that the second knows at each splat what lies behind it. Plain
// scalar code: a picture's gradient is asked for once in a while, its pixels always.

enum Gradient { kMeanX, kMeanY, kConicXX, kConicXY, kConicYY, kOpacityG, kDepthG, kColorG,
                kGradients = kColorG + 3 };

// Pictures are side by side in every array.
struct GradientJob {
  int64_t pictures, splats;
  int width, height;
  float alpha_max, alpha_min, transmittance_min;
  const float *means, *conics, *opacities, *depths, *colors;
  const float *limit;                    // depth of what hides all behind it
  const float *d_rgb, *d_depth, *d_left; // of the loss, by pixel; the last one's of the light left
  float *g_means, *g_conics, *g_opacities, *g_depths, *g_colors;
};

struct Pixel {
  double gathered = 0, passed = 0;  // of the loss: by all splats, by those already passed
  float light = 1;
  bool finished = false;
};

// Calls visit(x, y, dx, dy, alpha, exponential) wherever a splat counts in rows [top, bottom).
template <typename Visit>
inline void each_pixel(const GradientJob& job, int64_t i, int top, int bottom, Visit visit) {
  const float opacity = job.opacities[i];
  if (!(opacity >= job.alpha_min)) return;
  const float u = job.means[2 * i], v = job.means[2 * i + 1];
  const float xx = job.conics[3 * i], xy = job.conics[3 * i + 1], yy = job.conics[3 * i + 2];
  const float det = xx * yy - xy * xy, level = std::log(opacity / job.alpha_min);
  if (!(det > 0) || !(xx > 0)) return;
  const float tall = std::sqrt(2 * level * xx / det) + 0.01f;
  const int first = static_cast<int>(std::ceil(std::max<float>(v - tall - 0.5f, top)));
  const int last = static_cast<int>(std::floor(std::min<float>(v + tall - 0.5f, bottom - 1)));
  for (int y = first; y <= last; ++y) {
    const float dy = y + 0.5f - v;
    // sigma <= level solved for dx
    const float middle = u - xy * dy / xx, inside = 2 * level * xx - det * dy * dy;
    if (inside <= 0) continue;
    const float wide = std::sqrt(inside) / xx + 0.01f;
    const int left = static_cast<int>(std::ceil(std::max(middle - wide - 0.5f, 0.0f)));
    const int right =
        static_cast<int>(std::floor(std::min<float>(middle + wide - 0.5f, job.width - 1)));
    for (int x = left; x <= right; ++x) {
      const float dx = x + 0.5f - u;
      const float sigma = 0.5f * (xx * dx * dx + yy * dy * dy) + xy * dx * dy;
      const float e = std::exp(-sigma), alpha = std::min(opacity * e, job.alpha_max);
      if (alpha >= job.alpha_min) visit(x, y, dx, dy, alpha, e);
    }
  }
}

// Rows [top, bottom) of a picture; adds to `sums`, kGradients of each of its splats.
inline void gradient_rows(const GradientJob& job, int64_t picture, int top, int bottom,
                          double* sums) {
  const int64_t first = picture * job.splats, pixels = int64_t{job.width} * job.height;
  std::vector<Pixel> state(static_cast<size_t>(bottom - top) * job.width);
  auto gain_of = [&](int64_t i, int64_t at) {
    const float *color = job.colors + 3 * i, *g = job.d_rgb + 3 * at;
    return color[0] * g[0] + color[1] * g[1] + color[2] * g[2] + job.depths[i] * job.d_depth[at];
  };
  auto blend = [&](int64_t i, auto then) {
    each_pixel(job, i, top, bottom, [&](int x, int y, float dx, float dy, float alpha, float e) {
      Pixel& p = state[static_cast<size_t>(y - top) * job.width + x];
      const int64_t at = picture * pixels + int64_t{y} * job.width + x;
      if (p.finished || !(job.depths[i] < job.limit[at])) return;
      const float rest = p.light * (1 - alpha);
      if (rest <= job.transmittance_min) {
        p.finished = true;
        return;
      }
      then(p, at, dx, dy, alpha, e);
      p.light = rest;
    });
  };
  for (int64_t i = first; i < first + job.splats; ++i)
    blend(i, [&](Pixel& p, int64_t at, float, float, float alpha, float) {
      p.gathered += alpha * p.light * gain_of(i, at);
    });
  for (int64_t k = 0; k < static_cast<int64_t>(state.size()); ++k) {
    Pixel& p = state[k];
    p.gathered += p.light * job.d_left[picture * pixels + int64_t{top} * job.width + k];
    p.light = 1;
    p.finished = false;
  }
  for (int64_t i = first; i < first + job.splats; ++i) {
    double* sum = sums + (i - first) * kGradients;
    const float *conic = job.conics + 3 * i;
    blend(i, [&](Pixel& p, int64_t at, float dx, float dy, float alpha, float e) {
      const float weight = alpha * p.light, gain = gain_of(i, at), *g = job.d_rgb + 3 * at;
      p.passed += weight * gain;
      for (int c = 0; c < 3; ++c) sum[kColorG + c] += weight * g[c];
      sum[kDepthG] += weight * job.d_depth[at];
      if (alpha >= job.alpha_max) return;  // clipped
      const double d_alpha = p.light * gain - (p.gathered - p.passed) / (1 - alpha);
      const double d_sigma = -d_alpha * alpha;
      sum[kOpacityG] += d_alpha * e;
      sum[kConicXX] += 0.5 * d_sigma * dx * dx;
      sum[kConicXY] += d_sigma * dx * dy;
      sum[kConicYY] += 0.5 * d_sigma * dy * dy;
      sum[kMeanX] -= d_sigma * (conic[0] * dx + conic[1] * dy);
      sum[kMeanY] -= d_sigma * (conic[1] * dx + conic[2] * dy);
    });
  }
}

inline void gradient_of(const GradientJob& job, ffi::ThreadPool& pool) {
  // Strips of rows, for a fit draws one picture at a time; each has sums of its own.
  const int64_t strips = std::max<int64_t>(1, std::min<int64_t>(pool.num_threads(), job.height));
  const size_t size = static_cast<size_t>(job.splats) * kGradients;
  std::vector<double> sums(size * strips * job.pictures, 0.0);
  for_each(pool, strips * job.pictures, [&](int64_t k) {
    const int64_t strip = k % strips;
    gradient_rows(job, k / strips, static_cast<int>(strip * job.height / strips),
                  static_cast<int>((strip + 1) * job.height / strips), sums.data() + k * size);
  });
  for (int64_t picture = 0; picture < job.pictures; ++picture)
    for (int64_t i = 0; i < job.splats; ++i) {
      double all[kGradients] = {};
      for (int64_t strip = 0; strip < strips; ++strip)
        for (int k = 0; k < kGradients; ++k)
          all[k] += sums[(picture * strips + strip) * size + i * kGradients + k];
      const int64_t at = picture * job.splats + i;
      for (int k = 0; k < 2; ++k) job.g_means[2 * at + k] = static_cast<float>(all[kMeanX + k]);
      for (int k = 0; k < 3; ++k) job.g_conics[3 * at + k] = static_cast<float>(all[kConicXX + k]);
      for (int k = 0; k < 3; ++k) job.g_colors[3 * at + k] = static_cast<float>(all[kColorG + k]);
      job.g_opacities[at] = static_cast<float>(all[kOpacityG]);
      job.g_depths[at] = static_cast<float>(all[kDepthG]);
    }
}
