// Bringing a picture to another size, as Pillow's `ImageOps.fit` does it, to the bit.
#pragma once

#include <cstdint>
#include <vector>

namespace genin {

enum class Filter { lanczos, bilinear };

// 8-bit samples, `channels` a pixel, row after row.
struct Raster {
    uint32_t width = 0, height = 0, channels = 0;
    std::vector<uint8_t> samples;
};

// Scaled until it covers width x height, and cut around its centre.
Raster fit(const Raster &picture, uint32_t width, uint32_t height, Filter filter);

}  // namespace genin
