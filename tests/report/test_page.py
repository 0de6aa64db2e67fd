import csv
import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy
import pytest
from helpers import make_rows, stop, write_csv
from matplotlib.legend import Legend
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    log_loss,
    matthews_corrcoef,
    precision_score,
    recall_score,
    roc_auc_score,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mrpc_lightning import main
from mrpc_lightning.report import plots
from mrpc_lightning.report.metrics import Scored

RUN = Path("tb_logs/mrpc/version_0")
PICTURES = {"curves", "confusion", "precision_recall", "calibration"}


class Page(HTMLParser):
    """A page's text, its tags and what they refer to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.tags, self.references, self.open = "", list[str](), list[str](), list[str]()
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attributes if name in ("src", "href", "xlink:href")]
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data + " "


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def recompute(rows: list[dict[str, str]]) -> dict[str, float]:
    """All figures again, from the file alone, by scikit-learn."""
    labels = [row["label"] == "equivalent" for row in rows]
    predicted = [row["prediction"] == "equivalent" for row in rows]
    shares = [[float(row[f"probability_{name}"]) for name in ("not_equivalent", "equivalent")] for row in rows]
    positive = [share for _, share in shares]
    return {
        "accuracy": accuracy_score(labels, predicted),
        "F1": f1_score(labels, predicted),
        "precision": precision_score(labels, predicted),
        "recall": recall_score(labels, predicted),
        "average precision": average_precision_score(labels, positive),
        "ROC AUC": roc_auc_score(labels, positive),
        "Matthews correlation": matthews_corrcoef(labels, predicted),
        "loss": log_loss(labels, shares),
    }


def shown(page: Page) -> dict[str, float]:
    """The figures in a page's first table."""
    titles = "accuracy|F1|precision|recall|average precision|ROC AUC|Matthews correlation|loss|calibration error"
    return {
        name: float(value) for name, value in re.findall(rf"({titles}) (-?\d\.\d{{4}}) -?\d\.\d{{3}} to", page.text)
    }


@pytest.mark.parametrize("logger", ["true", "CSVLogger", "false"])
def test_everything_in_a_report_can_be_computed_again_from_its_predictions(
    logger: str, project: Path, arguments: list[str]
) -> None:
    hostile = ("<script>alert(1)</script> & so", "no")  # with both labels, one of which is a mistake
    write_csv(project / "validation.csv", [*make_rows(23, seed=1), (*hostile, 1), (*hostile, 0)])
    main(["fit", *arguments, "--trainer.max_epochs=3", f"--trainer.logger={logger}"])
    [run] = [path.parent for path in Path().glob("**/metrics.json")]
    metrics, page = json.loads((run / "metrics.json").read_text()), Page(run / "report.html")
    rows = read(run / "validation_predictions.csv")
    found = shown(page)
    assert {name: found[name] for name in recompute(rows)} == pytest.approx(recompute(rows), abs=5.1e-5)
    assert metrics["accuracy"] == pytest.approx(recompute(rows)["accuracy"])
    assert metrics["loss"] == pytest.approx(recompute(rows)["loss"], abs=1e-6)
    for name, (low, high) in metrics["intervals"].items():
        assert low <= high, name
    # Nothing from elsewhere, and nobody's sentence is markup.
    assert page.tags.count("svg") == len(PICTURES) and "script" not in page.tags and "link" not in page.tags
    assert all(reference.startswith("#") for reference in page.references)
    wrong = [row for row in rows if row["label"] != row["prediction"]]
    wrong.sort(key=lambda row: -abs(float(row["probability_equivalent"]) - 0.5))
    listed = re.findall(r"labelled “\w+” idx (\d+)", page.text)
    assert "<script>alert(1)</script> & so" in page.text
    assert listed == [row["idx"] for row in wrong[:20]]
    assert "swapped_probability_equivalent" not in rows[0] and "one_order" not in metrics
    assert "order" not in page.text.partition("How it came about")[0]
    for epoch in metrics["epochs"]:
        assert {"train_loss", "train_f1", "val_loss", "val_accuracy", "val_f1"} <= epoch.keys()
    assert [epoch["epoch"] for epoch in metrics["epochs"]] == [1, 2, 3]
    assert metrics["epochs"][metrics["epoch"] - 1]["val_f1"] == max(epoch["val_f1"] for epoch in metrics["epochs"])
    assert metrics["diagnosis"].split(":")[0] in page.text
    pictures = {path.stem for path in (run / "pictures").iterdir() if path.read_bytes().startswith(b"\x89PNG")}
    assert pictures == PICTURES
    if logger == "true":
        events = EventAccumulator(str(run)).Reload()
        assert set(events.Tags()["images"]) == PICTURES


def test_an_evaluation_has_a_report_of_its_own_without_curves(trained: Path) -> None:
    first = (RUN / "report.html").read_bytes()
    write_csv(trained / "others.csv", make_rows(40, seed=5))
    main(["test", "--trainer.accelerator=cpu", "--data.test_file=others.csv"])
    rows, page = read(RUN / "test_predictions.csv"), Page(RUN / "test_report.html")
    assert len(rows) == 40 and "Learning curves" not in page.text and page.tags.count("svg") == len(PICTURES) - 1
    found = shown(page)
    assert found["F1"] == pytest.approx(recompute(rows)["F1"], abs=5.1e-5)
    assert (RUN / "report.html").read_bytes() == first


def test_symmetric_scores_are_the_mean_of_both_orders(trained: Path) -> None:
    plain = read(RUN / "validation_predictions.csv")
    main(["test", "--trainer.accelerator=cpu", "--model.symmetric=true"])
    both, page = read(RUN / "test_predictions.csv"), Page(RUN / "test_report.html")
    metrics = json.loads((RUN / "test_metrics.json").read_text())
    turned = 0
    for one, two in zip(plain, both, strict=True):
        orders = [float(one["probability_equivalent"]), float(two["swapped_probability_equivalent"])]
        assert float(two["probability_equivalent"]) == pytest.approx(sum(orders) / 2, abs=1e-6)
        turned += (orders[0] > 0.5) != (orders[1] > 0.5)
    assert metrics["f1"] == pytest.approx(recompute(both)["F1"])
    assert metrics["one_order"]["accuracy"] == pytest.approx(recompute(plain)["accuracy"])
    assert "both orders" in page.text and f"the prediction from one order does, for {turned} of 25 pairs" in page.text
    assert page.tags.count("svg") == len(PICTURES) and (RUN / "test_pictures/orders.png").is_file()
    main(["test", "--trainer.accelerator=cpu"])
    assert not (RUN / "test_pictures/orders.png").exists(), "a picture of another model's"


def test_a_page_names_the_class_of_each_baseline(trained: Path) -> None:
    write_csv(trained / "few.csv", [("a b", "a c", int(row < 2)) for row in range(32)])
    main(["test", "--trainer.accelerator=cpu", "--data.test_file=few.csv"])
    text = Page(RUN / "test_report.html").text
    assert re.search(r"accuracy [\d.]+ [\d.]+ to [\d.]+ 0\.9375 always “not_equivalent”", text)
    assert re.search(r"F1 [\d.]+ [\d.]+ to [\d.]+ 0\.1176 always “equivalent”", text)


def test_nothing_is_lost_where_standard_output_fails(
    project: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Narrow(io.StringIO):
        def write(self, text: str) -> int:
            if "best checkpoint" in text:
                raise UnicodeEncodeError("ascii", text, 0, 1, "not ASCII")
            return len(text)

    with monkeypatch.context() as patch, pytest.raises(UnicodeEncodeError):
        patch.setattr(sys, "stdout", Narrow())
        main(["fit", *arguments, "--trainer.max_epochs=1"])
    assert (RUN / "metrics.json").is_file() and (RUN / "report.html").is_file()


def test_legends_lie_outside_of_the_pictures_axes() -> None:
    labels, positive = numpy.array([0, 1, 0, 1, 1]), numpy.array([0.9, 0.1, 0.8, 0.3, 0.6])
    scored = Scored(
        labels,
        numpy.stack((1 - positive, positive), axis=1),
        numpy.stack((positive, positive), axis=1),
        ["a"] * 5,
        ["b"] * 5,
        range(5),
    )
    for name, picture in plots.draw(scored, [], None, ["different", "same"]).items():
        picture.draw_without_rendering()
        [axes], legends = picture.axes, [*picture.legends, *picture.axes[0].findobj(Legend)]
        assert len(legends) == (name != "confusion")
        for legend in legends:
            box = legend.get_window_extent()
            assert box.y1 <= axes.get_tightbbox().y0 + 1 and box.x0 >= 0 and box.x1 <= picture.bbox.x1, name


def test_the_picture_of_differences_has_each_mean_and_both_intervals_in_points() -> None:
    rows = [("a", 0.01, (-0.01, 0.03), (-0.05, 0.07)), ("b", -0.02, (-0.03, -0.01), None)]
    [axes] = plots.differences(rows).axes
    drawn = [(line.get_xdata(), set(line.get_ydata())) for line in axes.lines[:-1]]
    expected = [([-5, 7], 0), ([-1, 3], 0), ([1], 0), ([-3, -1], 1), ([-2], 1)]
    for (values, heights), (ends, row) in zip(drawn, expected, strict=True):
        assert [*values] == pytest.approx(ends) and heights == {row}
    assert axes.yaxis.get_major_formatter().format_ticks(axes.get_yticks()) == ["a", "b"]
    assert [*axes.lines[-1].get_xdata()] == [0, 0], "no difference"


def test_a_report_of_one_class_and_of_one_pair_can_be_made(trained: Path) -> None:
    for rows in ([("a b", "a c", 1)], [("a b", "a c", 0)] * 3, [("a b", "a c", 1), ("a", "b", 0)]):
        write_csv(trained / "few.csv", rows)
        main(["test", "--trainer.accelerator=cpu", "--data.test_file=few.csv"])
        assert "accuracy" in Page(RUN / "test_report.html").text


def test_a_killed_and_resumed_run_reports_all_its_epochs(
    project: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stop(["fit", *arguments, "--trainer.max_epochs=3"], monkeypatch, 10)
    main(["fit", "--ckpt_path", str(RUN)])
    metrics = json.loads((RUN / "metrics.json").read_text())
    assert [epoch["epoch"] for epoch in metrics["epochs"]] == [1, 2, 3]
    assert numpy.isfinite([epoch["train_loss"] for epoch in metrics["epochs"]]).all()
