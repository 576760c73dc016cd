"""Several sets in one run: what a weight does, and that each set is measured as if it were alone."""

import math

import pytest

from tests import tiny

RED = [{"prompt": f"say {n % 5}", "completion": " red"} for n in range(24)]
BLUE = [{"prompt": f"say {n % 5}", "completion": " blue"} for n in range(24)]
"""Two sets that contradict each other: a model answers what it was shown more often."""
COUNT = [{"messages": chat["messages"]} for chat in tiny.CHATS[:17]]


@pytest.fixture
def put(s3, trainer):
    def put(name, records):
        return s3.put(f"data/{trainer.directory.name}/{name}.jsonl", tiny.json_lines(*records))

    return put


def mixture(put, *sets, validation=None):
    """The data section: for each set its name, its records and what else is said of it."""
    train = [{"uri": put(name, records), **more} for name, records, more in sets]
    held = [{"uri": put(f"{name}-dev", records), "name": name} for name, records, _ in validation or sets]
    return {"train": train, "validation": held}


@pytest.mark.parametrize(("red", "blue"), [({"weight": 3}, {"weight": 0.5}), ({"weight": 0.5}, {"weight": 3})])
def test_a_model_learns_what_has_the_greater_weight(s3, trainer, put, red, blue):
    """Both sets are equally long: with the weights left out of account neither answer would be the likelier one."""
    data = mixture(put, ("red", RED, red), ("blue", BLUE, blue))
    training = {"epochs": 3, "learningRate": 1e-2, "maxLength": 64, "batchSize": 6}
    ended = trainer.run(data=data, training=training)
    assert ended.code == 0, ended.result.error
    losses = {name: ended.metric(f"{name}/eval_loss")[0] for name in ("red", "blue")}
    more, less = ("red", "blue") if red["weight"] > 1 else ("blue", "red")
    assert losses[more] + 0.5 < losses[less]
    assert ended.metric(f"{more}/token_accuracy")[0] > ended.metric(f"{less}/token_accuracy")[0]
    sets = {entry["name"]: entry for entry in s3.report(ended.location)["sets"]}
    assert [sets[name]["train"][0]["perEpoch"] for name in (more, less)] == [72, 12]
    assert ended.result.usage.trained_tokens == sum(step["tokens"] for step in s3.report(ended.location)["steps"])


def test_each_set_is_measured_as_if_it_were_alone(s3, trainer, put):
    sets = [("red", RED, {}), ("count", COUNT, {"weight": 2})]
    learn = {"maxSteps": 4, "learningRate": 1e-2, "maxLength": 64}
    together = trainer.run(data=mixture(put, *sets), training=learn, evaluation={"samples": 3, "maxNewTokens": 4})
    assert together.code == 0, together.result.error
    names = [metric.name for metric in together.result.metrics]
    assert names[:3] == ["eval_loss", "perplexity", "token_accuracy"]
    assert names[3:5] == ["red/eval_loss", "count/eval_loss"]
    for number, alone in enumerate(sets):
        ended = trainer.run(
            data=mixture(put, *sets, validation=[alone]),
            training=learn,
            outputPrefix=f"{together.config.output_prefix}{number}/",
        )
        assert [metric.name for metric in ended.result.metrics] == names[:3]
        for name in names[:3]:
            assert together.metric(f"{alone[0]}/{name}") == pytest.approx(ended.metric(name), rel=1e-5)
    report = s3.report(together.location)
    assert [(entry["name"], entry["validation"][0]["sequences"]) for entry in report["sets"]] == [
        ("red", 24),
        ("count", 17),
    ]
    assert [sample["set"] for sample in report["samples"]] == ["red", "count", "red"]
    card = s3.get(f"{together.location}README.md").decode()
    loss, base = together.metric("count/eval_loss")
    assert f"| count | eval_loss | {base:.4f} | {loss:.4f} |" in card
    tokens = {entry["name"]: entry["validation"][0]["tokens"] for entry in report["sets"]}
    assert set(tokens) == {"red", "count"}


def test_a_mixture_that_was_killed_goes_on_to_the_same_bits(runs, put):
    data = mixture(put, ("red", RED, {"weight": 0.4}), ("count", COUNT, {"weight": 1.5}))
    training = {"epochs": 2, "learningRate": 1e-2, "maxLength": 64, "batchSize": 4}
    results = []
    for name, signals in (("whole", {}), ("killed", {"step 5": "SIGTERM"})):
        config = runs.config(name, data=data, training=training, checkpoint={"everySteps": 2})
        life = runs.live(config, **signals)
        if signals:
            assert life.code != 0
            life = runs.live(config)
        assert life.code == 0, life.log
        results.append(runs.result(config))
    assert results[0] == results[1]
    assert len(results[0]["steps"]) == 2 * 9  # 10 of red and 26 of count, four a step


def test_held_out_records_are_measured_by_the_set_that_they_are_from(trainer, put):
    train = [{"uri": put("red", RED)}, {"uri": put("count", COUNT)}]
    ended = trainer.run(data={"train": train, "validationFraction": 0.3})
    assert {"eval_loss", "red/eval_loss", "count/eval_loss"} <= {metric.name for metric in ended.result.metrics}


def test_a_set_of_which_nothing_can_be_learned_is_named(trainer, put):
    long = [{"prompt": "say " * 200, "completion": " so"}] * 5
    ended = trainer.run(data=mixture(put, ("red", RED, {}), ("long", long, {}), validation=[("red", RED, {})]))
    assert ended.code == 11
    assert "None of the 5 training records of s3://" in ended.message
    assert "long.jsonl has anything to learn within its first 64 tokens" in ended.message


def preferred(good, bad):
    return [{"prompt": f"say {n % 5}", "chosen": f" {good}", "rejected": f" {bad}"} for n in range(16)]


OTHERS = {
    "preferences": (
        {"method": {"objective": "dpo"}},
        preferred("red", "blue"),
        preferred("one two", "three"),
    ),
    "labels": (
        {"task": "text-classification"},
        [{"text": f"say {n}", "label": "even" if n % 2 == 0 else "odd"} for n in range(9)],
        [{"text": "so " * n + "yes", "label": "even" if n % 2 == 0 else "odd"} for n in range(16)],
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_recipes_mix_and_measure_sets_as_well(s3, trainer, put, kind):
    run, one, other = OTHERS[kind]
    learn = {"maxSteps": 2, "learningRate": 1e-3, "maxLength": 64}
    sets = [("one", one, {"weight": 0.5}), ("other", other, {"weight": 2})]
    together = trainer.run(data=mixture(put, *sets), training=learn, **run)
    assert together.code == 0, together.result.error
    for number, alone in enumerate(sets):
        ended = trainer.run(
            data=mixture(put, *sets, validation=[alone]),
            training=learn,
            outputPrefix=f"{together.config.output_prefix}{number}/",
            **run,
        )
        assert ended.result.metrics
        for metric in ended.result.metrics:
            assert together.metric(f"{alone[0]}/{metric.name}") == pytest.approx(ended.metric(metric.name), rel=1e-4)
    shown = s3.report(together.location)["sets"][0]["examples"][0]
    assert "say" in "".join(part["text"] for part in shown["text"])


WEIGHTS = {"red": 3, "blue": 0.5}
SHARE = {"red": 6 / 7, "blue": 1 / 7}
"""Of what is trained on, of two sets of one length: what a model answers with that has learned all there is to learn
from two sets that contradict each other."""


def contradicting(put, **sets):
    """The data section for ``red`` and ``blue``, each of which is (its records, its template); measured by the names
    alone, so that the template of what is held out is the train set's."""
    uris = {name: put(name, records) for name, (records, _) in sets.items()}
    train = [
        {"uri": uris[name], "name": name, "weight": WEIGHTS[name], "template": template}
        for name, (_, template) in sets.items()
    ]
    return {"train": train, "validation": [{"uri": uri, "name": name} for name, uri in uris.items()]}


def text_of(example):
    return "".join(run["text"] for run in example["text"] if run.get("part") != "rejected")


def test_a_reader_and_writer_learns_sets_by_their_weights_each_by_its_template(s3, trainer, put, tmp_path):
    """The sources are alike as the templates write them, so that nothing but their frequency tells the answers apart;
    by another template each set would be learned for itself. The probabilities are those of the weights, in nats, of
    which the end token after each answer takes the half."""
    ended = trainer.run(
        task="text2text-generation",
        model={"uri": s3.put_directory("models/t5-mixed", tiny.save_reader_and_writer(tmp_path / "t5"))},
        method={"adapter": "none"},
        data=contradicting(
            put,
            red=([{"text": f"say {n}"} for n in range(4)], "{{ text }}{% generation %}1{% endgeneration %}"),
            blue=([{"number": n} for n in range(4)], "say {{ number }}{% generation %}2{% endgeneration %}"),
        ),
        training={"maxSteps": 60, "learningRate": 3e-2, "batchSize": 14, "maxLength": 32, "schedule": "linear"},
        evaluation={"metrics": ["exact_match"], "maxNewTokens": 4},
    )
    assert ended.code == 0, ended.result.error
    for name, share in SHARE.items():
        assert ended.metric(f"{name}/eval_loss")[0] == pytest.approx(-math.log(share) / 2, abs=0.05)
        assert ended.metric(f"{name}/exact_match")[0] == round(share)
    sets = {entry["name"]: entry for entry in s3.report(ended.location)["sets"]}
    assert [sets[name]["train"][0]["perEpoch"] for name in WEIGHTS] == [12, 2]
    assert [text_of(sets[name]["examples"][0]).replace("<|im_end|>", " ") for name in WEIGHTS] == [
        "say 0 1 ",
        "say 0 2 ",
    ]


PLAIN = "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}<|im_end|>{% endif %}{% endfor %}"


def replies(asked, chosen, rejected):
    say = {"chosen": chosen, "rejected": rejected}
    written = {name: [{"role": "assistant", "content": content}] for name, content in say.items()}
    return [{"prompt": [{"role": "user", "content": asked.format(n)}]} | written for n in range(4)]


def test_preferences_are_weighed_by_the_weights_of_their_sets_each_by_its_template(s3, trainer, put):
    """The prompts are alike as the templates write them. Of pairs of which the share p has one answer chosen, and the
    rest the other, the loss of DPO is least where the one is worth ln(p / (1 - p)) more."""
    ended = trainer.run(
        method={"objective": "dpo"},
        data=contradicting(
            put,
            red=(replies("say {}", " red", " blue"), PLAIN),
            blue=(replies("{}", " blue", " red"), PLAIN.replace("{{", "{{ 'say ' if m.role == 'user' }}{{")),
        ),
        training={"maxSteps": 30, "learningRate": 1e-2, "batchSize": 14, "maxLength": 32},
    )
    assert ended.code == 0, ended.result.error
    for name, share in SHARE.items():
        assert ended.metric(f"{name}/reward_margin")[0] == pytest.approx(math.log(share / (1 - share)), abs=0.05)
        assert ended.metric(f"{name}/eval_loss")[0] == pytest.approx(-math.log(share), abs=0.01)
        assert ended.metric(f"{name}/preference_accuracy") == (round(share), 0.5)
    sets = {entry["name"]: entry for entry in s3.report(ended.location)["sets"]}
    assert [sets[name]["train"][0]["perEpoch"] for name in WEIGHTS] == [12, 2]
    assert [text_of(sets[name]["examples"][0]) for name in WEIGHTS] == [f"say 0 {name}<|im_end|>" for name in WEIGHTS]


def test_of_many_sets_the_status_has_what_matters_most_and_the_report_all(s3, trainer, put):
    uri = put("red", RED[:2])
    many = [{"uri": uri, "name": f"{n:02d}-{'x' * 29}"} for n in range(16)]
    ended = trainer.run(data={"train": many, "validation": many}, training={"maxSteps": 1, "maxLength": 64})
    assert ended.code == 0, ended.result.error
    assert len(ended.result.termination_message().encode()) <= 4096
    names = [metric.name for metric in ended.result.metrics]
    assert names[:3] == ["eval_loss", "perplexity", "token_accuracy"]
    assert names[3:19] == [f"{source['name']}/eval_loss" for source in many]
    assert len(names) < len(s3.report(ended.location)["metrics"]) == 3 + 16 * 3
