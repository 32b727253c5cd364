// C MuJoCo as XLA FFI calls on the CPU: state rows in, state rows and derived fields out.
//
// Each call sets every simulation's state before it computes, so it is a pure function of its
// operands. Models are found by a hash of their content and not by address, so a compiled program
// that was cached by another process means the same model.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include <mujoco/mujoco.h>
#include <mujoco/mjbatch.h>

#include "operational_space.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

// Where the fields of mjx_serl.envs.physics.SimState go, in its order; result 0 is the state row.
enum Field { kQpos, kQvel, kCtrl, kXpos, kXquat, kSiteXpos, kSiteXmat, kSensordata, kTime, kNumFields };

struct Sims {
  mjBatch* batch = nullptr;
  std::mutex mutex;           // a batch serves one caller at a time
  std::vector<float> values;  // of the model's entries, as last written, one row a simulation
};

// What one call does to each simulation: where it begins, what is done, where it goes. A row of each
// a simulation. The batch's own rows are never written: they stay at the model's defaults.
struct Work {
  const mjtNum* rows = nullptr;  // else at the defaults
  int64_t width = 0;             // of a row, in halves of a number
  const float *qpos = nullptr, *qvel = nullptr, *ctrl = nullptr;  // in place of the row's
  int n_substeps = 0;
  const bool* running = nullptr;  // which simulations are stepped; null: none
  const mjx_serl::OperationalSpace* law = nullptr;  // makes the controls of each update
  int n_updates = 1;
  const float* aims = nullptr;  // of the law
  mjtNum* stepped = nullptr;
  float* fields[kNumFields] = {};
};

// Entries of one model field that differ between simulations.
struct Entries {
  std::string field;
  std::vector<int64_t> index;  // in the field, flat
};

struct Model {
  const mjModel* model = nullptr;
  int nthread = 0;
  std::vector<Entries> entries;  // empty: all simulations share the model
  bool derived = false;          // the entries change constants that mj_setConst derives
};

// Whose simulations a call is about. Of devices that run one program each has simulations, and a
// share of the threads, of its own, so that none waits for another.
struct Caller {
  int64_t model;
  int64_t n;        // simulations
  int64_t devices;  // that share the threads
  int32_t device;   // which of them calls

  bool operator<(const Caller& other) const {
    return std::tie(model, n, devices, device) <
           std::tie(other.model, other.n, other.devices, other.device);
  }
};

struct Registry {
  std::mutex mutex;
  std::map<int64_t, Model> models;
  std::map<Caller, std::unique_ptr<Sims>> sims;
};

Registry& registry() {
  static Registry instance;
  return instance;
}

// MuJoCo would print each warning and append it to MUJOCO_LOG.TXT in the working folder, once for
// every world that becomes non-finite. Those are counted and masked by the environment, so what is
// said on a thread that steps them is dropped; the rest goes to the handler there was before.
thread_local bool quiet = false;
mjfLogHandler loud = nullptr;

void log(const mjLogMessage* message) {
  if (quiet && message->level <= mjLOG_WARNING) return;
  loud(message);
}

void take(mjtNum* to, const float* from, int sim, int64_t size) {
  if (from) std::copy_n(from + sim * size, size, to);
}

void put(const Work& work, Field field, int sim, const mjtNum* from, int64_t size) {
  float* to = work.fields[field] + sim * size;
  for (int64_t k = 0; k < size; ++k) to[k] = static_cast<float>(from[k]);
}

// Whether sensors read positions or velocities. Those of accelerations and forces, a touch among
// them, are as the last substep left them, and collisions need not be found anew for them.
bool senses_state(const mjModel* m) {
  for (int i = 0; i < m->nsensor; ++i)
    if (m->sensor_needstage[i] < mjSTAGE_ACC) return true;
  return false;
}

// Steps; a law sees the state between the two halves of a step.
void step(const mjModel* m, mjData* d, const Work& work, int sim) {
  if (!work.law) {
    for (int i = 0; i < work.n_substeps; ++i) mj_step(m, d);
    return;
  }
  for (int i = 0; i < work.n_updates * work.n_substeps; ++i) {
    mj_step1(m, d);
    if (i % work.n_substeps == 0)
      work.law->control(m, d, work.aims + sim * mjx_serl::OperationalSpace::kAim);
    mj_step2(m, d);
  }
}

// Runs on MuJoCo's threads: step, make the poses current, hand them out as float32.
void advance(const mjModel* m, mjData* d, int sim, void* argument) {
  const Work& work = *static_cast<const Work*>(argument);
  const int64_t width = mj_stateSize(m, mjSTATE_INTEGRATION);
  quiet = true;
  if (work.rows) mj_setState(m, d, work.rows + sim * width, mjSTATE_INTEGRATION);
  // A thread's data still has the last world's readings, which nothing computes before a step.
  if (!work.rows) mju_zero(d->sensordata, m->nsensordata);
  take(d->qpos, work.qpos, sim, m->nq);
  take(d->qvel, work.qvel, sim, m->nv);
  take(d->ctrl, work.ctrl, sim, m->nu);
  if (work.running && work.running[sim]) step(m, d, work, sim);
  mj_kinematics(m, d);  // mj_step leaves the poses of the state before its last substep
  if (senses_state(m)) {
    mj_fwdPosition(m, d);
    mj_sensorPos(m, d);
    mj_fwdVelocity(m, d);
    mj_sensorVel(m, d);
  }
  mj_getState(m, d, work.stepped + sim * width, mjSTATE_INTEGRATION);
  put(work, kQpos, sim, d->qpos, m->nq);
  put(work, kQvel, sim, d->qvel, m->nv);
  put(work, kCtrl, sim, d->ctrl, m->nu);
  put(work, kXpos, sim, d->xpos, 3 * m->nbody);
  put(work, kXquat, sim, d->xquat, 4 * m->nbody);
  put(work, kSiteXpos, sim, d->site_xpos, 3 * m->nsite);
  put(work, kSiteXmat, sim, d->site_xmat, 9 * m->nsite);
  put(work, kSensordata, sim, d->sensordata, m->nsensordata);
  put(work, kTime, sim, &d->time, 1);
  quiet = false;
}

// Threads of one of so many devices; 0 means all CPUs.
int threads_of(int nthread, int64_t devices) {
  if (devices == 1) return nthread;
  const int64_t all = nthread ? nthread : std::thread::hardware_concurrency();
  return static_cast<int>(std::max<int64_t>(1, all / devices));
}

// A caller's simulations of a model, made on first use.
Sims* sims_of(const Caller& caller, std::string* error) {
  Registry& all = registry();
  std::lock_guard<std::mutex> lock(all.mutex);
  auto& slot = all.sims[caller];
  if (slot) return slot.get();
  auto found = all.models.find(caller.model);
  if (found == all.models.end()) {
    *error = "native physics: the model was not registered in this process";
    return nullptr;
  }
  mjBatchConfig config;
  mjb_defaultConfig(&config);
  config.nthread = threads_of(found->second.nthread, caller.devices);
  char text[512] = "";
  auto made = std::make_unique<Sims>();
  made->batch =
      mjb_makeBatch(found->second.model, static_cast<int>(caller.n), &config, text, sizeof(text));
  if (!made->batch) {
    *error = std::string("native physics: ") + text;
    return nullptr;
  }
  mjb_reset(made->batch, nullptr, 0, nullptr, mjSTAGE_NONE);
  slot = std::move(made);
  return slot.get();
}

// Makes each simulation's model that of its row of values. Rows that are as they were written last
// are left alone, so in the usual case this compares and does no more; the result depends on the
// values only.
std::string write_values(Sims* sims, const Model& model, const float* values, int64_t n) {
  int64_t width = 0;
  for (const Entries& entries : model.entries) width += entries.index.size();
  std::vector<int> changed;
  const bool first = sims->values.empty();
  if (first) sims->values.resize(n * width);
  for (int64_t s = 0; s < n; ++s) {
    const size_t bytes = width * sizeof(float);
    if (!first && !std::memcmp(&sims->values[s * width], values + s * width, bytes)) continue;
    std::memcpy(&sims->values[s * width], values + s * width, bytes);
    changed.push_back(static_cast<int>(s));
  }
  if (changed.empty()) return "";
  int64_t begin = 0;
  for (const Entries& entries : model.entries) {
    int size = 0, elemsize = 0;
    void* storage = mjb_expand(sims->batch, entries.field.c_str(), &size, &elemsize);
    if (!storage || elemsize != sizeof(mjtNum)) {
      sims->values.clear();  // nothing is known of the models now
      return "model field " + entries.field;
    }
    for (int s : changed) {
      mjtNum* to = static_cast<mjtNum*>(storage) + static_cast<int64_t>(s) * size;
      const float* from = values + s * width + begin;
      for (size_t k = 0; k < entries.index.size(); ++k) to[entries.index[k]] = from[k];
    }
    begin += entries.index.size();
  }
  const bool failed =
      model.derived && mjb_setConst(sims->batch, changed.data(), static_cast<int>(changed.size()));
  if (!failed) return "";
  sims->values.clear();
  return "constants of a simulation's model";
}

const Model& model_of(int64_t number) {  // filed before it was called
  Registry& all = registry();
  std::lock_guard<std::mutex> lock(all.mutex);
  return all.models.at(number);
}

// Works on every simulation and fills the results.
ffi::Error run(const Caller& caller, Work work, const float* values, ffi::RemainingRets rets) {
  std::string error;
  Sims* sims = sims_of(caller, &error);
  if (!sims) return ffi::Error::Internal(error);
  std::lock_guard<std::mutex> lock(sims->mutex);
  if (values) error = write_values(sims, model_of(caller.model), values, caller.n);
  if (!error.empty()) return ffi::Error::Internal("native physics: cannot set " + error);
  auto rows = rets.get<ffi::Buffer<ffi::U32>>(0);
  if (!rows.has_value()) return ffi::Error::InvalidArgument("native physics: no row result");
  const int64_t width = 2 * mjb_nstate(sims->batch);
  if ((*rows)->dimensions().back() != width || (work.rows && work.width != width))
    return ffi::Error::InvalidArgument("native physics: state row has another width");
  work.stepped = reinterpret_cast<mjtNum*>((*rows)->typed_data());
  for (int i = 0; i < kNumFields; ++i) {
    auto out = rets.get<ffi::Buffer<ffi::F32>>(i + 1);
    if (!out.has_value()) return ffi::Error::InvalidArgument("native physics: missing result");
    work.fields[i] = (*out)->typed_data();
  }
  if (mjb_apply(sims->batch, nullptr, 0, advance, &work, 0))
    return ffi::Error::Internal("native physics: MuJoCo raised an error in a simulation");
  return ffi::Error::Success();
}

template <typename Buffer>
int64_t count(const Buffer& buffer) {
  return buffer.element_count() / buffer.dimensions().back();
}

Work stepping(ffi::Buffer<ffi::U32> rows, int64_t n_substeps, ffi::Buffer<ffi::PRED> running) {
  Work work;
  work.running = running.typed_data();
  work.rows = reinterpret_cast<const mjtNum*>(rows.typed_data());
  work.width = rows.dimensions().back();
  work.n_substeps = static_cast<int>(n_substeps);
  return work;
}

ffi::Error step_plain(int32_t device, int64_t devices, int64_t model, int64_t n_substeps,
                      ffi::Buffer<ffi::U32> rows, ffi::Buffer<ffi::F32> ctrl,
                      ffi::Buffer<ffi::PRED> running, ffi::RemainingRets rets) {
  Work work = stepping(rows, n_substeps, running);
  work.ctrl = ctrl.typed_data();
  return run({model, count(rows), devices, device}, work, nullptr, rets);
}

ffi::Error step_varied(int32_t device, int64_t devices, int64_t model, int64_t n_substeps,
                       ffi::Buffer<ffi::U32> rows, ffi::Buffer<ffi::F32> ctrl,
                       ffi::Buffer<ffi::F32> values, ffi::Buffer<ffi::PRED> running,
                       ffi::RemainingRets rets) {
  Work work = stepping(rows, n_substeps, running);
  work.ctrl = ctrl.typed_data();
  return run({model, count(rows), devices, device}, work, values.typed_data(), rets);
}

ffi::Error step_under(int32_t device, int64_t devices, int64_t model, int64_t n_updates,
                      int64_t n_substeps, ffi::Span<const int64_t> places,
                      ffi::Span<const float> numbers, ffi::Buffer<ffi::U32> rows,
                      ffi::Buffer<ffi::F32> aims, ffi::Buffer<ffi::PRED> running,
                      ffi::RemainingRets rets) {
  const mjx_serl::OperationalSpace law(places.begin(), numbers.begin());
  Work work = stepping(rows, n_substeps, running);
  work.law = &law;
  work.n_updates = static_cast<int>(n_updates);
  work.aims = aims.typed_data();
  return run({model, count(rows), devices, device}, work, nullptr, rets);
}

Work starting(ffi::Buffer<ffi::F32> qpos, ffi::Buffer<ffi::F32> qvel) {
  Work work;
  work.qpos = qpos.typed_data();
  work.qvel = qvel.typed_data();
  return work;
}

ffi::Error reset(int32_t device, int64_t devices, int64_t model, ffi::Buffer<ffi::F32> qpos,
                 ffi::Buffer<ffi::F32> qvel, ffi::RemainingRets rets) {
  const Work work = starting(qpos, qvel);
  return run({model, count(qpos), devices, device}, work, nullptr, rets);
}

ffi::Error reset_varied(int32_t device, int64_t devices, int64_t model,
                        ffi::Buffer<ffi::F32> qpos, ffi::Buffer<ffi::F32> qvel,
                        ffi::Buffer<ffi::F32> values, ffi::RemainingRets rets) {
  const Work work = starting(qpos, qvel);
  return run({model, count(qpos), devices, device}, work, values.typed_data(), rets);
}

// What every call begins with.
auto bind_caller() {
  return ffi::Ffi::Bind().Ctx<ffi::DeviceOrdinal>().Attr<int64_t>("devices").Attr<int64_t>("model");
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(MjxSerlStep, step_plain,
                              bind_caller()
                                  .Attr<int64_t>("n_substeps")
                                  .Arg<ffi::Buffer<ffi::U32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::PRED>>()
                                  .RemainingRets());

XLA_FFI_DEFINE_HANDLER_SYMBOL(MjxSerlFollow, step_under,
                              bind_caller()
                                  .Attr<int64_t>("n_updates")
                                  .Attr<int64_t>("n_substeps")
                                  .Attr<ffi::Span<const int64_t>>("places")
                                  .Attr<ffi::Span<const float>>("numbers")
                                  .Arg<ffi::Buffer<ffi::U32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::PRED>>()
                                  .RemainingRets());

XLA_FFI_DEFINE_HANDLER_SYMBOL(MjxSerlReset, reset,
                              bind_caller()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .RemainingRets());

XLA_FFI_DEFINE_HANDLER_SYMBOL(MjxSerlStepVaried, step_varied,
                              bind_caller()
                                  .Attr<int64_t>("n_substeps")
                                  .Arg<ffi::Buffer<ffi::U32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::PRED>>()
                                  .RemainingRets());

XLA_FFI_DEFINE_HANDLER_SYMBOL(MjxSerlResetVaried, reset_varied,
                              bind_caller()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .RemainingRets());

// Files a copy of a model under the hash of its content; `nthread` 0 means all CPUs.
extern "C" void mjx_serl_register(int64_t hash, const mjModel* model, int nthread) {
  Registry& all = registry();
  std::lock_guard<std::mutex> lock(all.mutex);
  if (!loud) loud = mju_setLogHandler(log);
  if (!all.models.count(hash)) all.models[hash] = {mj_copyModel(nullptr, model), nthread, {}, false};
}

// Adds entries of a field that differ between simulations to a model that was filed under a hash of
// these too; the order of the calls is that of the values. `derived`: see `Model`.
extern "C" void mjx_serl_vary(int64_t hash, const char* field, const int64_t* index, int count,
                              int position, int derived) {
  Registry& all = registry();
  std::lock_guard<std::mutex> lock(all.mutex);
  Model& model = all.models[hash];
  if (position < static_cast<int>(model.entries.size())) return;  // filed before
  model.entries.push_back({field, {index, index + count}});
  model.derived = model.derived || derived;
}
