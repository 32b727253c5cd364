// Draws one picture, for one instruction set: splat.cc includes this file once per set.
//
// LANES splats are projected at a time and LANES neighbouring pixels of a row are blended at a
// time, on GCC's and Clang's vector extensions. A picture is drawn in bands of rows that fit the
// first-level cache; inside a band each splat is blended, nearest first, into the rows and columns
// it reaches, from whatever column it begins at. So there are no tiles, hardly a lane is idle,
// and a splat is filed once per band and not once per tile.

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef float LooseVec __attribute__((vector_size(4 * LANES), aligned(4)));

static inline Vec all(float x) { return x - Vec{}; }
static inline Vec load(const float* from) { return *reinterpret_cast<const LooseVec*>(from); }
static inline void store(float* to, Vec x) { *reinterpret_cast<LooseVec*>(to) = x; }
static inline Vec choose(Ints mask, Vec a, Vec b) {
  return (Vec)((mask & (Ints)a) | (~mask & (Ints)b));
}
// The second operand where one is not a number.
static inline Vec larger(Vec a, Vec b) { return choose(a > b, a, b); }
static inline Vec smaller(Vec a, Vec b) { return choose(a < b, a, b); }

// Bit i is the sign bit of lane i.
static inline unsigned signs(Vec x) {
#if LANES == 8
  return _mm256_movemask_ps((__m256)x);
#elif defined(__SSE2__)
  return _mm_movemask_ps((__m128)x);
#else
  unsigned bits = 0;
  for (int i = 0; i < LANES; ++i) bits |= (((Ints)x)[i] < 0 ? 1u : 0u) << i;
  return bits;
#endif
}

static inline Vec square_root(Vec x) {
#if LANES == 8
  return (Vec)_mm256_sqrt_ps((__m256)x);
#else
  for (int i = 0; i < LANES; ++i) x[i] = std::sqrt(x[i]);
  return x;
#endif
}

// 2^x for x <= 0: relative error 1e-7 (minimax polynomial on [-1/2, 1/2]); 2^-126 below that
// exponent and where x is not a number.
static inline Vec exp2_of(Vec x) {
  x = larger(x, all(-126.0f));
  const Vec shifted = x + all(12582912.0f);  // 1.5 * 2^23 rounds to the low bits of the mantissa
  const Vec f = x - (shifted - all(12582912.0f));
  Vec p = all(1.32765e-3f);
  p = p * f + all(9.67554e-3f);
  p = p * f + all(5.550713e-2f);
  p = p * f + all(2.402212e-1f);
  p = p * f + all(6.9314697e-1f);
  p = p * f + all(1.0f);
  return (Vec)((Ints)p + ((Ints)shifted << 23));
}

// log2(x), error 0.005: only decides how far a splat reaches, with a margin.
static inline Vec rough_log2(Vec x) {
  const Ints bits = (Ints)x;
  const Vec exponent = __builtin_convertvector((bits >> 23) - 127, Vec);
  const Vec m = (Vec)((bits & 0x7fffff) | 0x3f800000);
  return exponent + (all(-0.34484603f) * m + all(2.02465946f)) * m - all(1.67487381f);
}

// What is read from the splats once per call: blocks of LANES splats, one row per quantity.
enum Row { kMean = 0, kFactor = 3, kOpacity = 12, kColor = 13 };

static inline Vec strided(const float* from, int64_t stride, int count) {
  Vec v = Vec{};
  for (int i = 0; i < count; ++i) v[i] = from[i * stride];
  return v;
}

// Columns of rotation(q) * diag(s): covariance = factor * factor^T. Kept as a factor because the
// projected determinant of a thin splat seen edge-on is lost in the rounding of a covariance.
static inline void pack_factor(const Vec* q, const Vec* s, float* block) {
  const Vec w = q[0], x = q[1], y = q[2], z = q[3], one = all(1.0f), two = all(2.0f);
  const Vec r[9] = {one - two * (y * y + z * z), two * (x * y - w * z), two * (x * z + w * y),
                    two * (x * y + w * z), one - two * (x * x + z * z), two * (y * z - w * x),
                    two * (x * z - w * y), two * (y * z + w * x), one - two * (x * x + y * y)};
  for (int k = 0; k < 9; ++k) store(block + (kFactor + k) * LANES, r[k] * s[k % 3]);
}

static inline void pack_colors(const Splats& in, int64_t first, int count, float* block) {
  const float* sh = in.sh + first * 3 * in.coefficients;
  for (int k = 0; k < 3 * in.coefficients; ++k) {
    Vec v = strided(sh + k, 3 * in.coefficients, count);
    // Degree 0 is the same from everywhere.
    if (in.coefficients == 1) v = larger(all(kSh0) * v + all(0.5f), Vec{});
    store(block + (kColor + k) * LANES, v);
  }
}

// Splats of one block and, where they share a body, that body; else -1 and each lane's own.
static inline void pack_block(const Splats& in, int64_t first, int count, float* block,
                              int32_t* bodies, int32_t* shared) {
  Vec quat[4], scale[3];
  for (int k = 0; k < 3; ++k)
    store(block + (kMean + k) * LANES, strided(in.means + 3 * first + k, 3, count));
  for (int k = 0; k < 4; ++k) quat[k] = strided(in.quats + 4 * first + k, 4, count);
  for (int k = 0; k < 3; ++k) scale[k] = strided(in.scales + 3 * first + k, 3, count);
  pack_factor(quat, scale, block);
  Vec opacity = strided(in.opacities + first, 1, count);
  *shared = -1;
  for (int i = 0; i < LANES; ++i) {
    const int32_t body = i < count ? in.body_id[first + i] : bodies[0];
    const bool known = body >= 0 && body < in.bodies;
    bodies[i] = known ? body : 0;
    if (!known) opacity[i] = 0.0f;  // on no body: draws nothing
  }
  bool same = true;
  for (int i = 1; i < LANES; ++i) same &= bodies[i] == bodies[0];
  if (same) *shared = bodies[0];
  store(block + kOpacity * LANES, opacity);
  pack_colors(in, first, count, block);
}

static void pack(const Splats& in, Packed* out) {
  const int64_t blocks = (in.count + LANES - 1) / LANES;
  out->stride = (kColor + 3 * in.coefficients) * LANES;
  out->data.resize(blocks * out->stride);
  out->bodies.resize(blocks * LANES);
  out->shared.resize(blocks);
  for (int64_t b = 0; b < blocks; ++b) {
    const int count = static_cast<int>(std::min<int64_t>(LANES, in.count - b * LANES));
    pack_block(in, b * LANES, count, out->data.data() + b * out->stride,
               out->bodies.data() + b * LANES, out->shared.data() + b);
  }
}

// Real spherical harmonics with the signs and order of 3DGS, up to degree 3.
static inline void sh_basis(int coefficients, Vec x, Vec y, Vec z, Vec* out) {
  out[0] = all(kSh0);
  if (coefficients < 4) return;
  out[1] = all(-0.4886025119029199f) * y;
  out[2] = all(0.4886025119029199f) * z;
  out[3] = all(-0.4886025119029199f) * x;
  if (coefficients < 9) return;
  const Vec xx = x * x, yy = y * y, zz = z * z;
  out[4] = all(1.0925484305920792f) * x * y;
  out[5] = all(-1.0925484305920792f) * y * z;
  out[6] = all(0.31539156525252005f) * (zz + zz - xx - yy);
  out[7] = all(-1.0925484305920792f) * x * z;
  out[8] = all(0.5462742152960396f) * (xx - yy);
  if (coefficients < 16) return;
  const Vec four_zz = all(4.0f) * zz - xx - yy, three = all(3.0f);
  out[9] = all(-0.5900435899266435f) * y * (three * xx - yy);
  out[10] = all(2.890611442640554f) * x * y * z;
  out[11] = all(-0.4570457994644658f) * y * four_zz;
  out[12] = all(0.3731763325901154f) * z * (zz + zz - three * (xx + yy));
  out[13] = all(-0.4570457994644658f) * x * four_zz;
  out[14] = all(1.445305721320277f) * z * (xx - yy);
  out[15] = all(-0.5900435899266435f) * x * (xx - three * yy);
}

static inline void color_of(int coefficients, const float* block, Vec dx, Vec dy, Vec dz, Vec* rgb) {
  const float* sh = block + kColor * LANES;
  if (coefficients == 1) {
    for (int c = 0; c < 3; ++c) rgb[c] = load(sh + c * LANES);
    return;
  }
  const Vec scale = all(1.0f) / square_root(dx * dx + dy * dy + dz * dz);
  Vec basis[16];
  sh_basis(coefficients, dx * scale, dy * scale, dz * scale, basis);
  for (int c = 0; c < 3; ++c) rgb[c] = all(0.5f);
  for (int k = 0; k < coefficients; ++k)
    for (int c = 0; c < 3; ++c) rgb[c] += basis[k] * load(sh + (3 * k + c) * LANES);
  for (int c = 0; c < 3; ++c) rgb[c] = larger(rgb[c], Vec{});
}

// A body seen from the camera, in every lane: rotation, translation, the camera in its frame.
static inline void pose_of(const Pose* poses, const int32_t* bodies, int32_t shared, Vec* pose) {
  if (shared >= 0) {
    for (int k = 0; k < kPoseSize; ++k) pose[k] = all(poses[shared].value[k]);
    return;
  }
  for (int k = 0; k < kPoseSize; ++k)
    for (int i = 0; i < LANES; ++i) pose[k][i] = poses[bodies[i]].value[k];
}

// The quantities of a projected splat, as they lie in `Drawn`.
enum Quantity { kU, kV, kSlope, kAcross, kDown, kDrawnOpacity, kReach, kRed, kGreen, kBlue, kZ };

// First and last pixel within `reach` of `center`, inside [0, size).
static inline void extent(Vec center, Vec reach, int size, Ints* first, Ints* last) {
  const Vec low = larger(center - reach - all(0.5f), Vec{});
  const Vec high = smaller(center + reach - all(0.5f), all(static_cast<float>(size - 1)));
  const Ints floor = __builtin_convertvector(smaller(low, all(32000.0f)), Ints);
  *first = floor - (__builtin_convertvector(floor, Vec) < low);
  *last = __builtin_convertvector(larger(high, all(-1.0f)), Ints);
}

// EWA projection (3DGS, arXiv 2308.04079) of a block. Returns the lanes that may be seen.
static inline Ints project(const View& view, const Settings& set, const float* block, const Vec* o,
                           Vec* out, Ints* box) {
  const Vec mx = load(block), my = load(block + LANES), mz = load(block + 2 * LANES);
  const Vec z = o[6] * mx + o[7] * my + o[8] * mz + o[11];
  Ints seen = (z >= all(set.near)) & (z > Vec{}) & (z < all(1e30f));
  if (!signs((Vec)seen)) return seen;
  const Vec inverse = all(1.0f) / z;
  const Vec xz = (o[0] * mx + o[1] * my + o[2] * mz + o[9]) * inverse;
  const Vec yz = (o[3] * mx + o[4] * my + o[5] * mz + o[10]) * inverse;
  const Vec u = all(view.fx) * xz + all(view.cx), v = all(view.fy) * yz + all(view.cy);
  // The Jacobian is taken at most 15 % of the picture outside of it, as gsplat does.
  const Vec jx = larger(smaller(xz, all(view.right)), all(view.left));
  const Vec jy = larger(smaller(yz, all(view.bottom)), all(view.top));
  const Vec fx = all(view.fx) * inverse, fy = all(view.fy) * inverse;
  Vec across[3], down[3], p[3], q[3];
  for (int k = 0; k < 3; ++k) {
    across[k] = fx * (o[k] - jx * o[6 + k]);
    down[k] = fy * (o[3 + k] - jy * o[6 + k]);
  }
  const float* factor = block + kFactor * LANES;
  for (int k = 0; k < 3; ++k) {
    const Vec f0 = load(factor + k * LANES), f1 = load(factor + (3 + k) * LANES),
              f2 = load(factor + (6 + k) * LANES);
    p[k] = across[0] * f0 + across[1] * f1 + across[2] * f2;
    q[k] = down[0] * f0 + down[1] * f1 + down[2] * f2;
  }
  const Vec a = p[0] * p[0] + p[1] * p[1] + p[2] * p[2], b = p[0] * q[0] + p[1] * q[1] + p[2] * q[2],
            c = q[0] * q[0] + q[1] * q[1] + q[2] * q[2];
  // det(P P^T) = |p x q|^2: no difference of large numbers.
  const Vec n0 = p[1] * q[2] - p[2] * q[1], n1 = p[2] * q[0] - p[0] * q[2],
            n2 = p[0] * q[1] - p[1] * q[0];
  const Vec sharp = n0 * n0 + n1 * n1 + n2 * n2, blur = all(set.blur);
  const Vec det = sharp + blur * (a + c) + blur * blur, aa = a + blur, cc = c + blur;
  Vec opacity = load(block + kOpacity * LANES) * o[15];
  if (set.antialiased) opacity *= square_root(sharp / det);
  // How far it is seen: opacity * 2^-x = alpha_min.
  const Vec reach = rough_log2(opacity) + all(set.reach_offset);
  const Vec square = all(2.0f * kLn2) * larger(reach, Vec{});
  const Vec rx = square_root(square * aa), ry = square_root(square * cc);
  seen &= (det > Vec{}) & (opacity > Vec{}) & (reach > Vec{});
  seen &= (u - rx <= all(view.width)) & (u + rx >= Vec{});
  seen &= (v - ry <= all(view.height)) & (v + ry >= Vec{});
  extent(u, rx, view.width, &box[0], &box[1]);
  extent(v, ry, view.height, &box[2], &box[3]);
  seen &= (box[0] <= box[1]) & (box[2] <= box[3]);
  // x^T conic x / 2 = log(2) * (across * (dx - slope * dy)^2 + down * dy^2): no cancellation.
  const Vec half = all(0.5f / kLn2);
  out[kU] = u;
  out[kV] = v;
  out[kSlope] = b / cc;
  out[kAcross] = half * cc / det;
  out[kDown] = half / cc;
  out[kDrawnOpacity] = opacity;
  out[kReach] = reach;
  out[kZ] = z;
  return seen;
}

// Projects all splats and keeps those that may be seen, in the order of the arrays.
static void project_all(const Packed& packed, int coefficients, const View& view,
                        const Settings& set, Scratch* work) {
  const int64_t blocks = packed.shared.size();
  work->drawn.resize(blocks * LANES);
  work->order.resize(blocks * LANES);
  uint32_t n = 0;
  for (int64_t index = 0; index < blocks; ++index) {
    const float* block = packed.data.data() + index * packed.stride;
    Vec pose[kPoseSize], out[kQuantities];
    Ints box[4];
    pose_of(work->poses.data(), packed.bodies.data() + index * LANES, packed.shared[index], pose);
    unsigned seen = signs((Vec)project(view, set, block, pose, out, box));
    if (!seen) continue;
    color_of(coefficients, block, load(block) - pose[12], load(block + LANES) - pose[13],
             load(block + 2 * LANES) - pose[14], out + kRed);
    for (int c = 0; c < 3; ++c) out[kRed + c] *= pose[16 + c];
    for (; seen; seen &= seen - 1, ++n) {
      const int i = __builtin_ctz(seen);
      Drawn& to = work->drawn[n];
      for (int k = 0; k < kQuantities; ++k) to.value[k] = out[k][i];
      for (int k = 0; k < 4; ++k) to.box[k] = static_cast<int16_t>(box[k][i]);
      uint32_t bits;  // of a positive float: sorts like the number
      std::memcpy(&bits, &to.value[kZ], 4);
      work->order[n] = (static_cast<uint64_t>(bits) << 32) | n;
    }
  }
  work->drawn.resize(n);
  work->order.resize(n);
}

// Blends LANES pixels. `plane` points at the first one's transmittance, the other quantities of a
// band's row follow at multiples of `stride`. A finished pixel's transmittance is negative.
static inline __attribute__((always_inline)) void blend(const float* s, const Settings& set,
                                                        Vec dx, float dy_part, float* plane,
                                                        int stride, bool occluded, bool median) {
  const Vec light = load(plane);
  if (signs(light) == (1u << LANES) - 1) return;
  Vec alpha = all(s[kDrawnOpacity]) * exp2_of(all(dy_part) - all(s[kAcross]) * dx * dx);
  alpha = smaller(alpha, all(set.alpha_max));
  Ints hit = alpha >= all(set.alpha_min);
  if (occluded) hit &= all(s[kZ]) < load(plane + kLimit * stride);
  const Vec weight = alpha * light;
  const Ints drawn = hit & (light - weight > all(set.transmittance_min));
  const Vec w = (Vec)(drawn & (Ints)weight);
  store(plane, (Vec)((Ints)(light - w) | (hit & ~drawn & (Ints)all(-0.0f))));
  for (int k = 0; k < (median ? 3 : 4); ++k) {
    float* sum = plane + (1 + k) * stride;
    store(sum, load(sum) + w * all(s[kRed + k]));
  }
  if (median) {
    const Ints halves = drawn & (light > all(0.5f)) & (light - w <= all(0.5f));
    float* depth = plane + kDepth * stride;
    store(depth, choose(halves, all(s[kZ]), load(depth)));
  }
}

// Blends one splat into rows [top, bottom] of a band whose first row is at `plane`.
static inline __attribute__((always_inline)) void splat_rows(const Drawn& drawn,
                                                             const Settings& set, int top,
                                                             int bottom, int first_row,
                                                             float* band, int stride,
                                                             bool occluded, bool median) {
  const float* s = drawn.value;
  Vec lane;
  for (int i = 0; i < LANES; ++i) lane[i] = static_cast<float>(i) + 0.5f;
  const bool wide = drawn.box[1] - drawn.box[0] >= LANES;
  for (int y = top; y <= bottom; ++y) {
    const float dy = static_cast<float>(y) + 0.5f - s[kV];
    const float center = s[kU] + s[kSlope] * dy, dy_part = -s[kDown] * dy * dy;
    int first = drawn.box[0], last = drawn.box[1];
    if (wide) {  // where this row really meets the ellipse
      const float left_over = std::max(s[kReach] + dy_part, 0.0f) / s[kAcross];
      const float reach = std::sqrt(left_over) + 0.01f;
      const float low = center - reach - 0.5f, high = center + reach - 0.5f;
      if (low > static_cast<float>(first)) first = static_cast<int>(std::min(low, 32000.0f));
      if (high < static_cast<float>(last)) last = static_cast<int>(std::max(high, -1.0f));
    }
    float* row = band + static_cast<int64_t>(y - first_row) * stride * kPlanes;
    const Vec start = lane - all(center);
    for (int x = first; x <= last; x += LANES)
      blend(s, set, start + all(static_cast<float>(x)), dy_part, row + x, stride, occluded,
            median);
  }
}

static void draw_band(const Drawn* drawn, const std::vector<uint32_t>& list, const Settings& set,
                      int first_row, int rows, float* band, int stride, bool occluded) {
  for (const uint32_t index : list) {
    const Drawn& splat = drawn[index];
    const int top = std::max<int>(splat.box[2], first_row);
    const int bottom = std::min<int>(splat.box[3], first_row + rows - 1);
    // Constants, so that each is a loop of its own.
    if (set.far > 0.0f && occluded)
      splat_rows(splat, set, top, bottom, first_row, band, stride, true, true);
    else if (set.far > 0.0f)
      splat_rows(splat, set, top, bottom, first_row, band, stride, false, true);
    else if (occluded)
      splat_rows(splat, set, top, bottom, first_row, band, stride, true, false);
    else
      splat_rows(splat, set, top, bottom, first_row, band, stride, false, false);
  }
}
