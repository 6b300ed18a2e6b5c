"""The files of trials' weights: each study has names of its own, and only its finished trials' files are removed."""

from dropopt.study.store.weights import NAME_CHARACTERS, path_of, remove_others, stem_of


def test_no_two_studies_share_a_name(tmp_path):
    """A part of it can be read, and a hash tells names apart that differ in symbols, or only in their ends."""
    names = ["a b", "a-b", "a b ", "é", "日本", "", "x" * 50, "x" * 51, "--", "A b"]
    stems = [stem_of(name) for name in names]
    assert len(set(stems)) == len(names)
    assert [stem.rpartition("-")[0] for stem in stems] == [
        *("a-b", "a-b", "a-b", "study", "study", "study", "x" * NAME_CHARACTERS, "x" * NAME_CHARACTERS, "study", "A-b")
    ]
    assert {len(stem.rpartition("-")[2]) for stem in stems} == {8}
    assert path_of(tmp_path, "a b", 7).name == f"weights-{stems[0]}-7.safetensors"
    assert path_of(tmp_path, "a b", 7).parent == tmp_path.absolute()


def test_files_of_finished_trials_are_removed_and_all_others_stay(tmp_path):
    """Of running trials, of other studies, and of people."""
    files = {number: path_of(tmp_path, "a", number) for number in (1, 2, 12)}
    files["other"], files["mine"] = path_of(tmp_path, "b", 1), tmp_path / f"weights-{stem_of('a')}-best.safetensors"
    files["text"] = path_of(tmp_path, "a", 1).with_suffix(".txt")
    for file in files.values():
        file.touch()
    remove_others(tmp_path, "a", {1, 2, 3})
    assert [name for name, file in files.items() if file.exists()] == [12, "other", "mine", "text"]
    remove_others(tmp_path / "none", "a", {1})
