"""What to do about each kind of failure, in a sentence: shown by `status`, at the end of a run, and when it stops."""

__all__ = ["ADVICE", "advice_for"]

ADVICE = {
    "invalid_request": "the service refuses these requests as they are: mend the parameter or the prompt it names; "
    "the corrected cells are new ones",
    "auth": "the key is refused: check it, and note that keys made before the account's first top-up don't work, and "
    "that a key's role or the account may lack this model (some are closed to trial credit)",
    "credit": "the account has no credit left: top it up, then run the same command again; nothing is lost",
    "not_found": "the service doesn't know this: for a submission, check the model's name and api.base_url; for a "
    "prediction, it was deleted (results are kept for 7 days)",
    "rate_limit": "the account's limit of images a minute or predictions at once: the run paces itself; a higher "
    "account level raises it (configs/ has one file a level)",
    "content_policy": "the service's moderation refused these prompts: reword them, or where the model takes it raise "
    "safety_tolerance; only --retry-failed buys them again as they are",
    "generation_failed": "the model failed on these; --retry-failed buys them again",
    "server": "the service had trouble of its own: run again later",
    "network": "the connection failed: check the network, then run again; nothing was bought twice",
    "timeout": "these predictions outlasted run.timeout; every later run asks for them again first, at no cost",
    "bad_response": "the service answered what it shouldn't; run.log has the words; --retry-failed buys them again",
    "unknown_outcome": "it isn't known whether the service accepted these submissions: run again, and the account's "
    "history is asked first; what that can't tell is held and stays in the budget, and --resubmit-unknown sends it "
    "again, at the risk of paying twice",
    "download": "the images are made and paid for, but could not be saved: run again with --download-only, at no cost, "
    "within 7 days",
}


def advice_for(kind: str | None) -> str:
    """Return what to do about an error kind, or "" where there is nothing to say."""
    return ADVICE.get(kind or "", "")
