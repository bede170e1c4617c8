"""From sentence and edge map to images: the pipeline, its weights, drawing many images, and looking into attention."""
