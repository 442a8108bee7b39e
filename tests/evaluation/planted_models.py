"""Models for the tests of the harness. They are imported by name in a fold's process.

`Cheat` knows every way to a test clip's label that a careless evaluation leaves open, and takes whichever is there.
"""

import gc
import os
import time

import numpy as np

from deft_llm.evaluation.baselines import make_baseline

SEEN: dict[bytes, str] = {}  # survives from fold to fold where folds share a process


class Fair:
    """The sign of the mean horizontal flow; learns which class goes with which."""

    def __init__(self, labels, seed=0, bias=0.0):
        self.labels, self.bias = list(labels), bias

    def fit(self, rows):
        values = {label: [self.mean(row) for row in rows if row["label"] == label] for label in self.labels}
        self.centres = np.array([np.mean(group) if group else np.inf for group in values.values()])
        self.seen = sorted(row["clip_id"] for row in rows)
        self.total = float(np.mean([self.mean(row) for row in rows]))

    def mean(self, row):
        return float(np.asarray(row["flow"], np.float32)[0, 0].mean())

    def predict(self, rows):
        answer = {"answer": f"{len(self.seen)} clips, mean {self.total:.4f}, {' '.join(self.seen)}"}
        return [{"scores": self.scores(self.mean(row)), **answer} for row in rows]

    def scores(self, value):
        nearness = np.exp(-np.abs(self.centres - value - self.bias))
        return (nearness / nearness.sum()).tolist()


class Cheat:
    def __init__(self, labels, seed=0):
        self.labels = list(labels)

    def key(self, row):
        return np.asarray(row["flow"], np.float32).tobytes()

    def fit(self, rows):
        # Memory of this process: whatever rows an earlier fold or the harness itself left behind.
        own = {id(row) for row in rows}
        for thing in gc.get_objects():
            if type(thing) is dict and id(thing) not in own and "flow" in thing and "emotion" in thing:
                SEEN[self.key(thing)] = str(thing["emotion"])
        self.remembered = dict(SEEN)
        SEEN.update({self.key(row): row["label"] for row in rows})

    def predict(self, rows):
        return [self.one(row) for row in rows]

    def one(self, row):
        told = [self.remembered.get(self.key(row), "")]
        told += [str(value) for name, value in sorted(row.items()) if name not in ("flow", "motion")]
        for label in self.labels:
            if any(label in text for text in told):
                return {"scores": [float(label == other) for other in self.labels], "answer": "told"}
        return {"scores": [1 / len(self.labels)] * len(self.labels)}


class OverTheTestSubject(Fair):
    """Normalises by the mean of the clips it is asked about."""

    def predict(self, rows):
        mean = np.mean([self.mean(row) for row in rows])
        return [{"scores": self.scores(self.mean(row) - mean)} for row in rows]


class StandardisedOverTheTestSubject:
    """A baseline whose scores are standardised over the clips that it is asked about."""

    def __init__(self, labels, seed=0, **config):
        self.model = make_baseline(labels=labels, seed=seed, **config)

    def fit(self, rows):
        self.model.fit(rows)

    def predict(self, rows):
        scores = np.array([item["scores"] for item in self.model.predict(rows)])
        scores = np.exp((scores - scores.mean(0)) / (scores.std(0) + 1e-9))
        return [{"scores": row.tolist()} for row in scores / scores.sum(1, keepdims=True)]


class ChoosesLate(Fair):
    """Chooses the bias that suits the clips it is asked about."""

    def fit(self, rows):
        super().fit(rows)
        self.chosen = {"bias": 0.0}

    def predict(self, rows):
        self.chosen["bias"] = float(np.mean([self.mean(row) for row in rows]))
        return super().predict(rows)


class Forgetful(Fair):
    def predict(self, rows):
        return super().predict(rows)[:-1]


class Unsure(Fair):
    def predict(self, rows):
        return [{"scores": [float("nan")] * len(self.labels)} for _ in rows]


class Broken(Fair):
    """Fails on its n-th start, counted in a file, and never again."""

    def __init__(self, labels, seed=0, counter="", fails_at=2, hard=False):
        super().__init__(labels, seed)
        with open(counter, "ab") as file:
            file.write(b"x")
        self.failing = os.path.getsize(counter) == fails_at
        self.hard = hard

    def fit(self, rows):
        if self.failing and self.hard:
            time.sleep(0.2)
            os._exit(9)
        if self.failing:
            raise ArithmeticError("planted failure")
        super().fit(rows)
