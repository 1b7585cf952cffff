// Drawing from an image instead of from noise alone (docs/bundle.md, "Starting from an image"): how many steps are taken, what goes into
// the encoder, and what a mask keeps.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "resample.h"
#include "schedule.h"

namespace genin {

// As a request gives it. The mask may be empty.
struct StartImage {
    Raster rgba, mask;
    double strength = 0;  // 0: the default
};

class Start {
public:
    // The image on white and its mask, brought to a size. Throws Failure (GENIN_E_ARGUMENT) for an image that is all transparent.
    Start(const StartImage &given, uint32_t width, uint32_t height);

    // (3, H, W) in [-1, 1].
    std::vector<float> encoder_input() const;
    // Where a drawing begins: what is known of the picture, `latents` (C, h, w), and the noise that it is noised with.
    void set_known(std::vector<float> latents, std::vector<float> noise, uint32_t latent_width, uint32_t latent_height);
    // The known latents at a timestep.
    std::vector<float> at(const Schedule &schedule, long timestep) const;
    // Latents at a timestep, with the known ones outside of the mask.
    void keep(const Schedule &schedule, long timestep, std::vector<float> &x) const;
    // Drawn pixels (H, W, 3), with the image's own outside of the mask.
    void composite(std::vector<uint8_t> &rgba) const;

private:
    Raster image_, mask_;
    std::vector<float> latents_, noise_, latent_mask_;  // the mask (h, w): a latent is drawn anew as far as any of its pixels is
};

// How many of so many steps are taken with a strength. `few`: no others of a student's timesteps exist.
// Throws Failure (GENIN_E_ARGUMENT) for a strength that does not exist, with the nearest.
uint32_t steps_taken(double strength, uint32_t steps, bool few, bool masked);

}  // namespace genin
