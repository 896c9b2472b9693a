"""Where the models come from."""

from serving.core.sources import BasePath


def test_of_a_folder_of_models_only_those_that_were_picked_serve(tmp_path):
    for name in ("lenet5", "vgg16"):
        (tmp_path / name / "1").mkdir(parents=True)
    assert set(BasePath(tmp_path).models()) == {"lenet5", "vgg16"}
    assert set(BasePath(tmp_path, only=("vgg16", "absent")).models()) == {"vgg16"}
