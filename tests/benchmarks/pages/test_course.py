"""The README's picture shows the figures of results/."""

import pytest

from benchmarks.pages import course


def run(name, perplexities, seed=0, steps=(500, 1_000), audit="causal"):
    points = zip(steps, perplexities, strict=True)
    log = [{"step": step, "seconds": 1.0, "perplexity": value} for step, value in points]
    return {"model_name": name, "seed": seed, "audit": audit, "validation_log": log}


LLAMA = run("llama", (90.0, 60.0))
OURS = [run("resnet-bk", (80.0, 50.0)), run("resnet-bk", (82.0, 54.0), seed=1)]
PROTOCOL = {"name": "quick", "batch_size": 10, "sequence_length": 100}


def results(*runs):
    return {"protocol": PROTOCOL, "runs": runs}


def test_a_curve_is_the_mean_over_seeds_at_millions_of_tokens():
    found = course.curves(results(run("other", (99.0, 98.0)), LLAMA, *OURS))
    assert list(found) == ["resnet-bk", "llama", "other"]
    assert found["resnet-bk"] == [[0.5, 81.0], [1.0, 52.0]]


def test_a_seed_without_a_finite_perplexity():
    with pytest.raises(ValueError, match=r"^quick: a seed of llama had no finite perplexity at some step; draw runs"):
        course.curves(results(run("llama", (None, 60.0)), *OURS))


def test_one_seed_that_leaks_takes_its_model_out():
    leaky = run("resnet-bk", (1.0, 1.0), seed=2, audit="leaks")
    for seeds in ([leaky], [*OURS, leaky], [leaky, *OURS]):
        assert list(course.curves(results(LLAMA, *seeds))) == ["llama"]


def test_models_of_one_seed_that_are_left_out():
    assert list(course.curves(results(LLAMA, *(run(name, (1.0, 1.0)) for name in course.LEFT_OUT)))) == ["llama"]


def test_the_picture_holds_its_figures_and_is_drawn_where_they_change():
    first = course.fill("", [results(LLAMA)])
    assert course.figures(first) == {"quick": {"llama": [[0.5, 90.0], [1.0, 60.0]]}}
    marked = first.replace("<title>", "<title>drawn elsewhere: ")
    assert course.fill(marked, [results(LLAMA)]) == marked
    again = course.fill(marked, [results(LLAMA, *OURS)])
    assert "drawn elsewhere" not in again
    assert course.figures(again)["quick"].keys() == {"llama", "resnet-bk"}
    assert again == course.fill("", [results(LLAMA, *OURS)])  # the same bytes


def test_models_of_another_file_join_its_panel():
    more = results(run("no-pointer", (85.0, 55.0)), run("llama", (1.0, 1.0)))
    more["protocol"] = PROTOCOL | {"name": "quick-pointer"}
    panels = course.figures(course.fill("", [results(LLAMA), more]))
    assert panels == {"quick": {"no-pointer": [[0.5, 85.0], [1.0, 55.0]], "llama": [[0.5, 90.0], [1.0, 60.0]]}}


def test_what_does_not_fit():
    with pytest.raises(ValueError, match="quick: the seeds of llama were validated at other steps"):
        course.curves(results(LLAMA, run("llama", (90.0, 60.0), seed=1, steps=(400, 1_000))))
    with pytest.raises(ValueError, match="the results of quick have no model with a course"):
        course.curves(results(run("llama", (1.0, 1.0), audit="leaks")))
    for picture in ("no picture", "<svg/>"):
        with pytest.raises(ValueError, match="the picture holds no figures; empty the file"):
            course.fill(picture, [results(LLAMA)])
