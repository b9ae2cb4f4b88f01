"""A second run's results take the place of the first one's, folders too."""

from qwen3vl_ros.demo.output import Output


def test_a_second_run_replaces_the_folders_of_the_first(tmp_path):
    for run in ("first", "second"):
        with Output(tmp_path / "out") as output:
            (output.work / "inspection").mkdir()
            (output.work / "inspection" / f"{run}.txt").write_text(run)
            (output.work / "results.json").write_text("{}")
            output.finish()
    assert [p.name for p in (tmp_path / "out" / "inspection").iterdir()] == ["second.txt"]
