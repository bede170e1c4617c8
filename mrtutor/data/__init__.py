"""From volumes to training batches.

`nifti` and `sources` read cases, `prepare` cuts and scales slices and describes them in words, `structure` draws edge
maps, `build` fills a folder, `cohort` opens it, `export` saves generated images.
"""
