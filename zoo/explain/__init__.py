"""What a network sees: the papers' own methods, as functions of arrays.

Every method is a function over a small `Probe` (`zoo.explain.probe`), implemented by a live Keras
model (`zoo.keras_probe`), by a worker process that holds one (`zoo.explain.remote`), and by what an
engine gives of a published version. `zoo.explain.methods` lists the methods by name; drawing is
apart, in `zoo.explain.render`.
"""
