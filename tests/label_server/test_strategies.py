"""Without MONAI Label: stand-ins have what its datastores and strategies have."""

import json
import sys
import threading
import time
from types import ModuleType, SimpleNamespace

import pytest

from aps_components.evaluation.doubt.next_scan import ScanScore
from aps_components.files import sha256_of
from aps_components.label_server.strategies import DESCRIPTIONS, Held, Renewal, choose, install

ENTROPY = {"a": 0.1, "b": 0.5, "c": 0.2}


class Datastore:
    def __init__(self, unlabeled, labeled=()):
        self.unlabeled, self.labeled, self.broken = list(unlabeled), list(labeled), set()
        self.partial = set()

    def get_unlabeled_images(self):
        return self.unlabeled

    def get_labeled_images(self):
        return self.labeled

    def get_labels_by_image_id(self, image):
        return {"partial": image} if image in self.partial else {}

    def get_image_uri(self, image):
        if image in self.broken:
            raise ValueError("slices are missing")
        return self.fetched(image)

    def fetched(self, image):
        return f"/studies/{image}.nii.gz"


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model" / "la"
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "model.pt").write_bytes(b"weights")
    return folder


def write_scores(model, scans):
    scores = {name: {"scan": "", **ScanScore(entropy={"x": scans[name]}, answered=["x"]).as_json()} for name in scans}
    content = {"format": 1, "weights_sha256": sha256_of(model / "models" / "model.pt"), "scans": scores}
    (model / "scores.json").write_text(json.dumps(content))
    return 0


@pytest.fixture
def monailabel(monkeypatch):
    class Strategy:
        def __init__(self, description):
            self.description = description

    for name in ("monailabel", "monailabel.interfaces", "monailabel.interfaces.tasks"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    module = ModuleType("monailabel.interfaces.tasks.strategy")
    module.Strategy = Strategy
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("aps_components.label_server.strategies._is_training", lambda: False)


def wait_for(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_only_unlabelled_scans_are_chosen_and_by_chance_until_there_are_scores():
    scores = {name: ScanScore(entropy={"x": value}).as_json() for name, value in ENTROPY.items()}
    assert choose("doubt", ["a", "c"], scores, round=9, seed=0) == "c"
    assert {choose("doubt", ["a", "c"], {}, round=9, seed=seed) for seed in range(20)} == {"a", "c"}


def test_scores_are_renewed_once_for_each_weights_and_never_two_at_a_time(model):
    begun, go, calls = threading.Event(), threading.Event(), []

    def renew(folder, scans):
        calls.append(dict(scans))
        begun.set()
        go.wait(10)
        return write_scores(folder, ENTROPY)

    renewal = Renewal(model, lambda: dict.fromkeys(ENTROPY, "somewhere"), renew=renew)
    assert renewal.check()
    begun.wait(10)
    assert not renewal.check()  # and nobody waits
    assert renewal.scores() == {}
    go.set()
    wait_for(lambda: set(renewal.scores()) == set(ENTROPY))
    assert not renewal.check()
    (model / "models" / "model.pt").write_bytes(b"trained further")
    assert set(renewal.scores()) == set(ENTROPY)  # what earlier weights said is better than chance
    wait_for(renewal.check)
    wait_for(lambda: len(calls) == 2)


def test_a_training_that_goes_on_is_waited_for_and_earlier_scores_stay(model):
    going_on = [True]
    write_scores(model, ENTROPY)

    def renew(folder, scans):
        return write_scores(folder, {"a": 0.9})  # as far as it has come

    scans = dict.fromkeys(ENTROPY, "somewhere")
    renewal = Renewal(model, lambda: scans, renew=renew, training=lambda: going_on[0])
    before = renewal.scores()
    (model / "models" / "model.pt").write_bytes(b"after an epoch")
    assert not renewal.check()
    assert renewal.scores() == before
    going_on[0] = False
    assert renewal.check()
    wait_for(lambda: renewal.scores()["a"] != before["a"])
    assert {name: entry for name, entry in renewal.scores().items() if name != "a"} == {
        name: entry for name, entry in before.items() if name != "a"
    }


def test_a_scan_that_cannot_be_scored_is_not_tried_for_ever(model):
    calls = []
    renewal = Renewal(model, lambda: {"broken": "x"}, renew=lambda *given: calls.append(given) or 1)
    assert renewal.check()
    wait_for(lambda: calls and not renewal._lock.locked())
    assert not renewal.check()


def test_without_weights_nothing_is_scored(tmp_path):
    assert not Renewal(tmp_path, lambda: {"a": "x"}, renew=lambda *_: 0).check()


@pytest.fixture
def app(model, tmp_path, monailabel, monkeypatch):
    monkeypatch.setattr(Renewal, "watch", lambda self: None)
    write_scores(model, ENTROPY)
    datastore = Datastore(ENTROPY, labeled=["z"] * 30)
    app = SimpleNamespace(
        app_dir=tmp_path, _infers={"la": None}, _strategies={"first": None}, datastore=lambda: datastore
    )
    install(app)
    return app


def test_an_app_lists_the_strategies_and_answers_by_them(app):
    datastore = app.datastore()
    assert list(app._strategies) == list(DESCRIPTIONS)  # Slicer's module begins with the first
    assert app._strategies["doubt"]({}, datastore) == {"id": "b"}
    datastore.unlabeled = []
    assert app._strategies["random"]({}, datastore) is None


@pytest.mark.parametrize("strategy", DESCRIPTIONS)
def test_a_scan_that_cannot_be_read_is_passed_over(app, caplog, strategy):
    datastore = app.datastore()
    datastore.broken = {"a", "b"}
    assert app._strategies[strategy]({}, datastore) == {"id": "c"}
    datastore.broken = set(ENTROPY)
    assert app._strategies[strategy]({}, datastore) is None
    assert "passed over: c: slices are missing" in caplog.text


@pytest.mark.parametrize("who", [{}, {"client_id": "user-xyz"}])  # as OHIF's panel asks, and Slicer's module
def test_nobody_is_given_a_scan_that_was_given_of_late(app, who):
    datastore, ask = app.datastore(), app._strategies["doubt"]
    assert [ask(who, datastore)["id"] for _ in "123"] == ["b", "c", "a"]
    assert [ask(who, datastore)["id"] for _ in "123"] == ["b", "c", "a"]  # all are held: the longest first


def test_half_finished_scans_come_when_there_are_no_others(app):
    datastore, ask = app.datastore(), app._strategies["doubt"]
    datastore.partial = {"b"}
    assert [ask({}, datastore)["id"] for _ in "12"] == ["c", "a"]
    datastore.partial = {"a", "b", "c"}
    assert ask({}, datastore) == {"id": "b"}


def test_a_scan_is_held_for_an_hour():
    now = [0.0]
    held = Held(seconds=3600, now=lambda: now[0])
    assert held.take(["a", "b"], min) == "a"
    now[0] = 10.0
    assert held.take(["a", "b"], min) == "b"
    now[0] = 3600.0
    assert held.take(["a", "b"], max) == "a"  # which alone is free
