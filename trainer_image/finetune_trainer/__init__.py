"""The trainer: data and a model in, a tuned model measured against its base out. One run, one process.

``python -m finetune_trainer`` reads a run file (:class:`finetune_api.run.RunConfig`). ``__main__`` tells the story;
each of its subjects has a folder. torch and the Hugging Face libraries take seconds to import, so modules that need
them are imported where their chapter begins, while downloads already run.
"""
