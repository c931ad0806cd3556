"""Figures of `python -m bench identity`."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bench.common.people import people_of
from bench.identity import command as identity
from bench.identity.distances import Distances, compare
from bench.identity.hostile import Judged, hostile_still
from bench.identity.observing import Observed
from keyframes import appearance_descriptor, likeness
from receiver.enhance.faces.alignment import crop_of
from receiver.errors import InputError
from tests.keyframes.test_people import embedding


def observed(person: int, clip: str, second: float, away: float = 0.0) -> Observed:
    return Observed(f"p{person}", clip, "s", second, 30.0, embedding(person, away).tolist())


def test_the_manifest_names_the_person_of_a_clip(tmp_path):
    clips = [tmp_path / "train" / name for name in ("a_1.mp4", "a_2.mp4", "b.mp4")]
    assert people_of(clips) == {clip: clip.stem for clip in clips}
    rows = ["file,identity", "train/a_1.mp4,a", "train/a_2.mp4,a"]
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    assert list(people_of(clips).values()) == ["a", "a", "b"]


def test_a_manifest_with_a_mark_and_windows_lines_is_read(tmp_path, monkeypatch):
    text = "file,identity\r\na_1.mp4, Zoë\r\na_2.mp4,Zoë \r\nb.mp4,\r\nc.mp4\r\n"
    (tmp_path / "manifest.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    names = ("a_1.mp4", "a_2.mp4", "b.mp4", "c.mp4")
    assert list(people_of([tmp_path / one for one in names]).values()) == ["Zoë", "Zoë", "b", "c"]
    (tmp_path / "d").mkdir()
    monkeypatch.chdir(tmp_path / "d")  # the manifest above is found from a relative path
    assert people_of([Path("../a_1.mp4")]) == {Path("../a_1.mp4"): "Zoë"}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "manifest.csv").write_text("file,identity\nd/e.mp4,f\n")
    monkeypatch.chdir(tmp_path / "d")
    assert people_of([Path("e.mp4")]) == {Path("e.mp4"): "f"}


def test_the_manifest_beside_the_clips_counts(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "manifest.csv").write_text("file,identity\nd/e.mp4,above\nd/f.mp4,above\n")
    (tmp_path / "d" / "manifest.csv").write_text("file,identity\ne.mp4,beside\n")
    clips = [tmp_path / "d" / "e.mp4", tmp_path / "d" / "f.mp4"]
    assert list(people_of(clips).values()) == ["beside", "above"]


@pytest.mark.parametrize(
    "text", [b"file;identity\na.mp4;a\n", b"file\na.mp4\n", b"file,identity\na.mp4,Zo\xeb\n"]
)
def test_a_manifest_that_names_no_people_is_refused(tmp_path, text):
    (tmp_path / "manifest.csv").write_bytes(text)
    said = r"manifest.csv does not say who is in which clip \(.*\): give it the columns file and"
    with pytest.raises(InputError, match=said):
        people_of([tmp_path / "a.mp4"])


def test_identities_are_compared_with_other_moments_and_other_people():
    faces = [observed(0, "a", second) for second in (0.0, 1.0, 2.0)]
    faces += [
        observed(0, "a", 2.5, 0.1),
        observed(0, "a", 2.6, 0.2),
    ]  # the first is too close in time
    faces += [observed(0, "b", 0.0, 0.3), observed(1, "c", 0.0)]
    result = compare(faces)
    assert sorted(result.same) == pytest.approx([0.2, 0.3], abs=1e-3)
    assert result.other == pytest.approx([2**0.5], abs=1e-3)


def test_accepted_is_the_share_below_the_threshold():
    result = Distances([0.1, 0.2, 0.3, 0.4], [0.3, 0.9])
    assert result.accepted("same", 0.3) == 0.5
    assert result.accepted("other", 0.31) == 0.5
    assert np.isnan(Distances().accepted("same", 0.3))


def test_a_hostile_still_has_one_face_s_colours_and_the_other_s_detail(portrait):
    chance = np.random.default_rng(0)
    landmarks = (100 + 60 * chance.random((68, 2))).astype(np.float32)
    own = np.zeros((256, 256, 3), np.uint8)
    own[:, :128], own[128:] = (200, 90, 60), (30, 160, 220)
    theirs = chance.integers(0, 256, (256, 256, 3)).astype(np.uint8)
    still = hostile_still(theirs, landmarks, own, landmarks)
    assert (
        likeness(appearance_descriptor(crop_of(still)), appearance_descriptor(crop_of(own))) > 0.9
    )
    detail = (still - still.mean()).ravel().astype(float), (theirs - theirs.mean()).ravel()
    assert np.corrcoef(*detail)[0, 1] > 0.6


def test_figures_are_printed_as_json_and_as_tables(monkeypatch, capsys, tmp_path):
    (tmp_path / "clip.mp4").touch()
    judged = Judged(Counter(still=2), Counter({"nobody's": 5}), 4, 1)
    monkeypatch.setattr(identity, "measure", lambda *_: Distances([0.1, 0.5], [0.2, 0.9]))
    monkeypatch.setattr(identity, "attack", lambda *_: judged)
    output = ["--output", str(tmp_path / "identity.jsonl")]
    identity.main([str(tmp_path), "--json", *output])
    printed = json.loads(capsys.readouterr().out)
    assert printed["accepted"] == {"same": 0.5, "other": 0.5}
    assert printed["hostile"] == {"nobody's": 5}
    assert (tmp_path / "identity.png").stat().st_size > 0
    identity.main([str(tmp_path), *output])
    shown = capsys.readouterr().out
    assert "50.00 %" in shown
    assert "1 would be admitted by their embedding alone" in shown
