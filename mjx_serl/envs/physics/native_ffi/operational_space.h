// Operational-space torques of one arm, for the threads that step the worlds: in float32 what
// `mjx_serl.envs.control.operational_space` computes, which explains the law and names its sources.

#pragma once

#include <cmath>
#include <cstdint>

#include <mujoco/mujoco.h>

namespace mjx_serl {

// One number of each joint, or of each direction x, y, z, rx, ry, rz. Places that an arm does not
// fill hold what changes nothing, so that every loop has one length.
constexpr int kLanes = 8;
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));

struct Triple {
  Lanes x, y, z;
};

inline Triple operator+(const Triple& a, const Triple& b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z};
}

inline Triple operator*(const Lanes& a, const Triple& b) { return {a * b.x, a * b.y, a * b.z}; }

inline Lanes dot(const Triple& a, const Triple& b) { return a.x * b.x + a.y * b.y + a.z * b.z; }

inline Triple cross(const Triple& a, const Triple& b) {
  return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}

class OperationalSpace {
 public:
  static constexpr int kAim = 8;  // position [m], quaternion, control of the gripper

  // `places`: joints J, site of the tool, actuator of the gripper or -1, then J each of bodies,
  // qpos, dofs and actuators. `numbers`: stiffness, that of the null space, damping of the
  // mobility, then of each joint: axis, mass, centre of mass, factor F of the inertia F^T F row by
  // row, armature, home.
  OperationalSpace(const int64_t* places, const float* numbers)
      : joints_(static_cast<int>(places[0])),
        site_(static_cast<int>(places[1])),
        grip_(static_cast<int>(places[2])) {
    places += 3;
    for (int* to : {body_, qpos_, dof_, actuator_})
      for (int j = 0; j < joints_; ++j) to[j] = static_cast<int>(*places++);
    for (float* to : {&kp_, &kp_null_, &damping_}) *to = *numbers++;
    for (int j = 0; j < joints_; ++j) {
      for (int k = 0; k < 3; ++k) axis_[k][j] = *numbers++;
      mass_[j] = *numbers++;
      for (int k = 0; k < 3; ++k) com_[k][j] = *numbers++;
      for (int k = 0; k < 9; ++k) factor_[k][j] = *numbers++;
      armature_[j] = *numbers++;
      home_[j] = *numbers++;
    }
    for (int j = joints_ - 1; j >= 0; --j)
      carried_[j] = mass_[j] + (j + 1 < joints_ ? carried_[j + 1] : 0.0f);
  }

  // Writes the controls of a state whose positions and velocities are current.
  void control(const mjModel* m, mjData* d, const float* aim) const {
    Lanes q = {}, dq = {};
    for (int j = 0; j < joints_; ++j) {
      q[j] = static_cast<float>(d->qpos[qpos_[j]]);
      dq[j] = static_cast<float>(d->qvel[dof_[j]]);
    }
    const Lanes null = kp_null_ * (home_ - q) - 2.0f * std::sqrt(kp_null_) * dq;
    Arm arm = place(d);
    // The upper triangle, row by row, then M null.
    Lanes mass[kLanes];
    inertia(arm, mass);
    Lanes torque = {};
    for (int j = 0; j < joints_; ++j) {
      torque += mass[j] * null[j];
      for (int k = j + 1; k < joints_; ++k) torque[j] += mass[j][k] * null[k];
    }
    const Lanes force = pull(d, aim, arm, mass, dq, null);
    const Lanes* rows[6] = {&arm.speed.x, &arm.speed.y, &arm.speed.z,
                            &arm.axis.x,  &arm.axis.y,  &arm.axis.z};
    for (int i = 0; i < 6; ++i) torque += *rows[i] * force[i];
    mju_zero(d->ctrl, m->nu);
    for (int j = 0; j < joints_; ++j) set(m, d, actuator_[j], torque[j]);
    if (grip_ >= 0) set(m, d, grip_, aim[7]);
  }

 private:
  // Where the links are: rotations row by row, origins from the tool centre; and the Jacobian.
  struct Arm {
    Lanes turned[9];
    Triple origin, axis, speed;
  };

  static void set(const mjModel* m, mjData* d, int actuator, float value) {
    const mjtNum* range = m->actuator_ctrlrange + 2 * actuator;
    // What is not finite stays so, and is told by MuJoCo.
    d->ctrl[actuator] = value < range[0] ? range[0] : value > range[1] ? range[1] : value;
  }

  static Triple times(const Lanes* matrix, const Triple& v) {
    return {matrix[0] * v.x + matrix[1] * v.y + matrix[2] * v.z,
            matrix[3] * v.x + matrix[4] * v.y + matrix[5] * v.z,
            matrix[6] * v.x + matrix[7] * v.y + matrix[8] * v.z};
  }

  Arm place(const mjData* d) const {
    Arm arm = {};
    const mjtNum* tool = d->site_xpos + 3 * site_;
    for (int j = 0; j < joints_; ++j) {
      const mjtNum *turn = d->xmat + 9 * body_[j], *at = d->xpos + 3 * body_[j];
      for (int k = 0; k < 9; ++k) arm.turned[k][j] = static_cast<float>(turn[k]);
      arm.origin.x[j] = static_cast<float>(at[0] - tool[0]);
      arm.origin.y[j] = static_cast<float>(at[1] - tool[1]);
      arm.origin.z[j] = static_cast<float>(at[2] - tool[2]);
    }
    arm.axis = times(arm.turned, {axis_[0], axis_[1], axis_[2]});
    arm.speed = cross(arm.origin, arm.axis);
    return arm;
  }

  // Rows of the mass matrix from the diagonal on, by composite rigid bodies about the tool centre.
  void inertia(const Arm& arm, Lanes* rows) const {
    const Triple com = arm.origin + times(arm.turned, {com_[0], com_[1], com_[2]});
    // R F^T, whose square is R I R^T.
    Lanes factors[9];
    for (int a = 0; a < 3; ++a)
      for (int b = 0; b < 3; ++b)
        factors[3 * a + b] = arm.turned[3 * a] * factor_[3 * b] +
                             arm.turned[3 * a + 1] * factor_[3 * b + 1] +
                             arm.turned[3 * a + 2] * factor_[3 * b + 2];
    const auto spin = [&](int a, int b) {
      const Lanes *p = factors + 3 * a, *r = factors + 3 * b;
      return p[0] * r[0] + p[1] * r[1] + p[2] * r[2];
    };
    const Lanes square = dot(com, com);
    Lanes sums[9] = {spin(0, 0) + mass_ * (square - com.x * com.x),
                     spin(1, 1) + mass_ * (square - com.y * com.y),
                     spin(2, 2) + mass_ * (square - com.z * com.z),
                     spin(0, 1) - mass_ * com.x * com.y,
                     spin(0, 2) - mass_ * com.x * com.z,
                     spin(1, 2) - mass_ * com.y * com.z,
                     mass_ * com.x,
                     mass_ * com.y,
                     mass_ * com.z};
    // Of each link and all behind it.
    for (int j = kLanes - 2; j >= 0; --j)
      for (Lanes& sum : sums) sum[j] += sum[j + 1];
    const Triple moment = {sums[6], sums[7], sums[8]};
    const Lanes whole[9] = {sums[0], sums[3], sums[4], sums[3], sums[1],
                            sums[5], sums[4], sums[5], sums[2]};
    const Triple linear = carried_ * arm.speed + cross(arm.axis, moment);
    const Triple angular = times(whole, arm.axis) + cross(moment, arm.speed);
    for (int j = 0; j < joints_; ++j) {
      rows[j] = arm.axis.x[j] * angular.x + arm.axis.y[j] * angular.y +
                arm.axis.z[j] * angular.z + arm.speed.x[j] * linear.x +
                arm.speed.y[j] * linear.y + arm.speed.z[j] * linear.z;
      rows[j][j] += armature_[j];
      for (int k = 0; k < j; ++k) rows[j][k] = 0.0f;
    }
  }

  // Force and torque at the tool centre. Changes `mass` to D L^T, of M = L D L^T.
  Lanes pull(const mjData* d, const float* aim, const Arm& arm, Lanes* mass, const Lanes& dq,
             const Lanes& null) const {
    // Rows of J^T, and what is asked for of the tool.
    Lanes halves[kLanes];
    Lanes wanted = kp_ * error(d, aim);
    for (int j = 0; j < joints_; ++j) {
      halves[j] = Lanes{arm.speed.x[j], arm.speed.y[j], arm.speed.z[j],
                        arm.axis.x[j],  arm.axis.y[j],  arm.axis.z[j]};
      wanted -= halves[j] * (2.0f * std::sqrt(kp_) * dq[j] + null[j]);
    }
    // L Y = J^T; the mobility is Y^T D^-1 Y, its rows beside what is asked for.
    Lanes mobility[6];
    for (int i = 0; i < 6; ++i) {
      mobility[i] = Lanes{};
      mobility[i][i] = damping_;
    }
    for (int j = 0; j < joints_; ++j) {
      const float inverse = 1.0f / mass[j][j];
      for (int k = j + 1; k < joints_; ++k) {
        const float share = mass[j][k] * inverse;
        mass[k] -= share * mass[j];
        halves[k] -= share * halves[j];
      }
      for (int i = 0; i < 6; ++i) mobility[i] += halves[j][i] * inverse * halves[j];
    }
    for (int i = 0; i < 6; ++i) mobility[i][6] = wanted[i];
    return solved(mobility);
  }

  // The solution of six symmetric equations, whose right sides are in the seventh place.
  static Lanes solved(Lanes* rows) {
    float inverse[6];
    for (int i = 0; i < 6; ++i) {
      inverse[i] = 1.0f / rows[i][i];
      for (int k = i + 1; k < 6; ++k) rows[k] -= rows[i][k] * inverse[i] * rows[i];
    }
    Lanes found = {};
    for (int i = 5; i >= 0; --i) {
      float rest = rows[i][6];
      for (int k = i + 1; k < 6; ++k) rest -= rows[i][k] * found[k];
      found[i] = rest * inverse[i];
    }
    return found;
  }

  // From where the tool is to where it is told to be [m], [rad].
  Lanes error(const mjData* d, const float* aim) const {
    const float w = aim[3], x = aim[4], y = aim[5], z = aim[6];
    const float wanted[9] = {
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z),     2 * (x * z + w * y),
        2 * (x * y + w * z),     1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y),     2 * (y * z + w * x),     1 - 2 * (x * x + y * y)};
    float is[9];
    for (int k = 0; k < 9; ++k) is[k] = static_cast<float>(d->site_xmat[9 * site_ + k]);
    const auto turn = [&](int a, int b) {  // of `wanted` times the transpose of `is`
      const float *p = wanted + 3 * a, *r = is + 3 * b;
      return p[0] * r[0] + p[1] * r[1] + p[2] * r[2];
    };
    Lanes away = {};
    for (int k = 0; k < 3; ++k)
      away[k] = aim[k] - static_cast<float>(d->site_xpos[3 * site_ + k]);
    away[3] = 0.5f * (turn(2, 1) - turn(1, 2));
    away[4] = 0.5f * (turn(0, 2) - turn(2, 0));
    away[5] = 0.5f * (turn(1, 0) - turn(0, 1));
    return away;
  }

  int joints_, site_, grip_;
  int body_[kLanes] = {}, qpos_[kLanes] = {}, dof_[kLanes] = {}, actuator_[kLanes] = {};
  float kp_, kp_null_, damping_;
  Lanes axis_[3] = {}, com_[3] = {}, factor_[9] = {};
  Lanes mass_ = {}, carried_ = {}, armature_ = {}, home_ = {};
};

}  // namespace mjx_serl
