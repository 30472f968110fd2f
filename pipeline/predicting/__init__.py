"""A segmentor on images: of any size, by several processes, as files and pictures."""
