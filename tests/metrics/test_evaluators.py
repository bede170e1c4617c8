import numpy as np
import pytest
import torch
from transformers import ResNetConfig, ResNetForImageClassification

from mrtutor.data.cohort import write_cohort
from mrtutor.files import write_checksums
from mrtutor.metrics.evaluators import WORDS, healthy_medians, load_reader, median_reader, paint_over
from mrtutor.training.data import FACTS


def test_readers_are_loaded_whole_or_not_at_all(tiny_cohort, tmp_path):
    for name, channels, labels in (("modality", 1, 4), ("idh", 4, 2), ("words", 4, sum(map(len, WORDS.values())))):
        sizes = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"}
        torch.manual_seed(0)
        network = ResNetForImageClassification(ResNetConfig(num_channels=channels, num_labels=labels, **sizes))
        network.half().save_pretrained(tmp_path / name)
    write_checksums(tmp_path)
    reader, images = load_reader(tmp_path), np.asarray(tiny_cohort.images[:3])
    said = reader.read_modality(images[:, 0]), reader.read_idh(images)
    assert said[0].shape == said[1].shape == (3,) and said[0].max() < 4 and said[1].max() < 2
    assert (reader.read_modality(images[:, 0] / 255) == said[0]).all()
    told = reader.read_words(images)
    assert all(answer.shape == (3,) and answer.max() < len(WORDS[name]) for name, answer in told.items())
    assert WORDS == {name: FACTS[name] for name in told}, "not what training says"
    (tmp_path / "idh" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="SHA-256"):
        load_reader(tmp_path)


def test_painted_over_tumour_is_gone_and_the_rest_is_not(tiny_cohort):
    images, masks = np.array(tiny_cohort.images[:2]), np.asarray(tiny_cohort.masks[:2])
    images[1, 3] = 0
    painted = paint_over(images, masks)
    assert not painted[1, 3].any()
    for sequence, true, mask in zip(painted, images, masks, strict=True):
        assert all(len(np.unique(image[mask > 0])) == 1 for image in sequence)
        assert (np.abs(sequence.astype(int) - true).max(axis=0) == 0).mean() > 0.9


def test_median_of_healthy_brain_may_tell_the_type(tiny_cohort, tmp_path):
    images, masks = np.array(tiny_cohort.images), np.asarray(tiny_cohort.masks)
    wild = (tiny_cohort.table["idh"] == "wild").to_numpy()
    images[wild, 2] = (images[wild, 2] * 0.7).astype(np.uint8)  # as scaling by slice does where a rim is bright
    images[0, 3] = 0  # one patient lacks T2
    cohort = write_cohort(tmp_path / "leaky", images, masks, tiny_cohort.table)
    assert np.isnan(healthy_medians(images, masks)[0, 3])
    said = median_reader(cohort, cohort.rows("train")).predict(healthy_medians(images[12:], masks[12:]))
    assert (said == wild[12:]).all()
    assert median_reader(cohort, cohort.rows("train", idh="wild")) is None
