// JAX's default random numbers, Threefry-2x32 with 20 rounds (Salmon et al. 2011), as XLA FFI calls.

#include <cstdint>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

using Words = ffi::Buffer<ffi::U32>;
using Out = ffi::Result<Words>;

struct Pair {
  uint32_t x, y;
};

static inline Pair Threefry(Pair key, Pair count) {
  static constexpr int kRotations[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
  const uint32_t keys[3] = {key.x, key.y, key.x ^ key.y ^ 0x1BD11BDAu};
  uint32_t x = count.x + key.x, y = count.y + key.y;
  for (uint32_t group = 0; group < 5; ++group) {
    for (int turn : kRotations[group % 2]) {
      x += y;
      y = (y << turn | y >> (32 - turn)) ^ x;
    }
    x += keys[(group + 1) % 3];
    y += keys[(group + 2) % 3] + group + 1;
  }
  return {x, y};
}

static inline Pair Key(const Words& keys, int64_t i) {
  return {keys.typed_data()[2 * i], keys.typed_data()[2 * i + 1]};
}

// Words of each key and of each pair of counters.
static ffi::Error Hash(Words key1, Words key2, Words count1, Words count2, Out out1, Out out2) {
  const int64_t size = count1.element_count();
  for (int64_t i = 0; i < size; ++i) {
    const Pair words = Threefry({key1.typed_data()[i], key2.typed_data()[i]},
                                {count1.typed_data()[i], count2.typed_data()[i]});
    out1->typed_data()[i] = words.x;
    out2->typed_data()[i] = words.y;
  }
  return ffi::Error::Success();
}

// Keys [..., 2] to as many words of each as fit: the counter's words put together.
static ffi::Error Bits(Words keys, Out out) {
  const int64_t rows = keys.element_count() / 2, size = out->element_count() / rows;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < size; ++i) {
      const Pair words = Threefry(Key(keys, row), {static_cast<uint32_t>(i >> 32),
                                                   static_cast<uint32_t>(i)});
      out->typed_data()[row * size + i] = words.x ^ words.y;
    }
  }
  return ffi::Error::Success();
}

// Keys [..., 2] to as many keys of each as fit: the counter's two words.
static ffi::Error Split(Words keys, Out out) {
  const int64_t rows = keys.element_count() / 2, size = out->element_count() / 2 / rows;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < size; ++i) {
      const Pair words = Threefry(Key(keys, row), {static_cast<uint32_t>(i >> 32),
                                                   static_cast<uint32_t>(i)});
      out->typed_data()[2 * (row * size + i)] = words.x;
      out->typed_data()[2 * (row * size + i) + 1] = words.y;
    }
  }
  return ffi::Error::Success();
}

// Keys [..., 2] and a number for each to a key for each.
static ffi::Error FoldIn(Words keys, Words numbers, Out out) {
  const int64_t rows = numbers.element_count();
  for (int64_t row = 0; row < rows; ++row) {
    const Pair words = Threefry(Key(keys, row), {0, numbers.typed_data()[row]});
    out->typed_data()[2 * row] = words.x;
    out->typed_data()[2 * row + 1] = words.y;
  }
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    ThreefryHash, Hash,
    ffi::Ffi::Bind().Arg<Words>().Arg<Words>().Arg<Words>().Arg<Words>().Ret<Words>().Ret<Words>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(ThreefryBits, Bits, ffi::Ffi::Bind().Arg<Words>().Ret<Words>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(ThreefrySplit, Split, ffi::Ffi::Bind().Arg<Words>().Ret<Words>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(ThreefryFoldIn, FoldIn,
                              ffi::Ffi::Bind().Arg<Words>().Arg<Words>().Ret<Words>());
