// Threefry-2x32 with 20 rounds (Salmon et al. 2011) as an XLA FFI call on the CPU.

#include <cstdint>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

using Words = ffi::Buffer<ffi::U32>;

static ffi::Error Threefry(Words key1, Words key2, Words count1, Words count2,
                           ffi::Result<Words> out1, ffi::Result<Words> out2) {
  static constexpr int kRotations[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
  const int64_t size = count1.element_count();
  for (int64_t i = 0; i < size; ++i) {
    const uint32_t k1 = key1.typed_data()[i], k2 = key2.typed_data()[i];
    const uint32_t keys[3] = {k1, k2, k1 ^ k2 ^ 0x1BD11BDAu};
    uint32_t x = count1.typed_data()[i] + k1, y = count2.typed_data()[i] + k2;
    for (uint32_t group = 0; group < 5; ++group) {
      for (int turn : kRotations[group % 2]) {
        x += y;
        y = (y << turn | y >> (32 - turn)) ^ x;
      }
      x += keys[(group + 1) % 3];
      y += keys[(group + 2) % 3] + group + 1;
    }
    out1->typed_data()[i] = x;
    out2->typed_data()[i] = y;
  }
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    Threefry2x32, Threefry,
    ffi::Ffi::Bind().Arg<Words>().Arg<Words>().Arg<Words>().Arg<Words>().Ret<Words>().Ret<Words>());
