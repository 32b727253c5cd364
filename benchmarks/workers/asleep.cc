// A device's time that takes none of this machine's: a call that sleeps, and notes when.

#include <chrono>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

std::mutex mutex;
std::vector<double> noted;  // of every sleep: which, begin, end [s]

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

ffi::Error sleep(ffi::AnyBuffer x, ffi::Result<ffi::AnyBuffer> y, int64_t which, double seconds) {
  const double begin = now();
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  std::memcpy(y->untyped_data(), x.untyped_data(), x.size_bytes());
  const std::lock_guard<std::mutex> hold(mutex);
  noted.insert(noted.end(), {static_cast<double>(which), begin, now()});
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(Asleep, sleep,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<int64_t>("which")
                                  .Attr<double>("seconds"));

extern "C" int64_t asleep_noted(double* out, int64_t most) {
  const std::lock_guard<std::mutex> hold(mutex);
  const int64_t count = static_cast<int64_t>(noted.size()) < most ? noted.size() : most;
  for (int64_t i = 0; i < count; ++i) out[i] = noted[i];
  noted.clear();
  return count;
}
