"""BLEU and chrF of translations, by sacrebleu."""

from collections.abc import Sequence

from keras_genai.export.child import check_installed
from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import integer, references, text, texts


@checked(translations=texts, references=references, tokenize=text)
def bleu(
    translations: Sequence[str],
    references: Sequence[str],
    tokenize: str = "13a",
    lowercase: bool = False,
) -> float:
    """BLEU (P02-1040) of a set of translations, from 0 to 100.

    Args:
        translations: list of strings.
        references: list of as many strings, what they should be; or a list of such
            lists, several references of each.
        tokenize: how sacrebleu cuts words: `"13a"`, `"intl"`, `"char"`, `"zh"`, ...
        lowercase: whether case is left out of account.

    Raises:
        ValueError: the numbers differ, or there are none.
        ImportError: `sacrebleu` is not installed.

    Example:

    ```python
    kg.metrics.bleu(model.translate(sources), targets)
    ```
    """
    references = _checked(translations, references)
    from sacrebleu.metrics import BLEU

    if tokenize not in BLEU.TOKENIZERS:
        raise ValueError(
            f"tokenize must be one of {', '.join(BLEU.TOKENIZERS)}; got {tokenize!r}."
        )
    metric = BLEU(tokenize=tokenize, lowercase=lowercase)
    return float(metric.corpus_score(list(translations), references).score)


@checked(translations=texts, references=references, word_order=integer(0, 100))
def chrf(
    translations: Sequence[str], references: Sequence[str], word_order: int = 0
) -> float:
    """chrF (W15-3049) of a set of translations, from 0 to 100: shared characters.

    Args:
        translations, references: see `bleu`.
        word_order: 2 is chrF++ (W17-4770), which counts words too.

    Raises:
        ValueError: the numbers differ, or there are none.
        ImportError: `sacrebleu` is not installed.
    """
    references = _checked(translations, references)
    from sacrebleu.metrics import CHRF

    metric = CHRF(word_order=word_order)
    return float(metric.corpus_score(list(translations), references).score)


def _checked(translations, references):
    """The references as sacrebleu takes them: a list of lists."""
    several = not isinstance(references[0], str)
    lists = [list(part) for part in references] if several else [list(references)]
    for part in lists:
        if len(part) != len(translations):
            raise ValueError(
                f"There must be a reference for each translation; got "
                f"{len(translations)} translations and {len(part)} references."
            )
    check_installed(["sacrebleu"], "BLEU and chrF", "'keras-genai[text]'")
    return lists
