"""The trainer beside its peers: speed, memory, start, data and S3, measured in one run.

    make bench-trainer                            all of it
    python -m benchmarks.trainer startup s3       some sections
    python -m benchmarks.trainer --list           the sections there are

Prints a table, writes ``build/bench/trainer.json`` (a list of ``{name, goal, value, unit, holds}``) and exits with 1 if
a goal is missed.

**To add rows**: one module of this package is one section. It has a function without arguments that measures and
returns its rows, and a line in :data:`SECTIONS`::

    # benchmarks/trainer/s3.py
    from benchmarks.row import Row, at_most

    def rows() -> list[Row]:
        ours, theirs = …
        return [Row("S3 download, client CPU ÷ download_file", ours / theirs, "×", at_most(0.5))]

A row without a goal is a figure that the others are made of, and always holds. A module is imported only when its
section runs; a section that this machine cannot run raises :class:`~benchmarks.row.NotHere` with the sentence
that says what is missing. Whatever is measured in a process of its own goes through
:func:`benchmarks.trainer.process.measured`.
"""

SECTIONS = {
    "cpu": "speed, memory and eval loss of the training loop on a CPU, beside TRL and transformers' Trainer",
    "preference": "DPO and KTO on a CPU, beside TRL's trainers on the same records",
    "startup": "CPU-seconds from the start to the first optimizer step, beside TRL and the floor",
    "gpu": "LoRA on a Llama of 8 billion weights: speed, memory, longest context; needs a CUDA GPU",
    "encoder": "text classification with a real pre-trained encoder: speed and F1, beside transformers' Trainer",
    "seq2seq": "translations and summaries with a T5: speed and eval loss, beside transformers' Seq2SeqTrainer",
    "preparation": "from records to tokens: speed beside the tokenizer alone, and memory",
    "s3": "processor time of downloads beside download_file, and how far an upload stops the training loop",
}
"""Name on the command line → what it measures, in the order of the table. The module has the section's name."""
