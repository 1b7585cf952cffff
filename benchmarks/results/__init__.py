"""Result files of `genin bench`: what they say, how they are read and written, compared, merged and exported. No torch."""
