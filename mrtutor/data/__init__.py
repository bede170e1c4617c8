"""From a volume to a training batch.

`simulate` makes volumes, `nifti` reads and writes them, `volume` checks them and puts them on one grid,
`prepare` cuts slices, `structure` draws their edges, `build` fills a folder, `cohort` opens it, `export` saves
generated images.
"""
