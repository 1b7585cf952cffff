"""FID, KID, LPIPS and the like: features, statistics, intervals."""
