"""One workflow over many photographs: which pictures and which outputs (`plan`), what was made (`journal`), the
workflow with a photograph in the place of its Load Image (`graph`), the run (`run`)."""
