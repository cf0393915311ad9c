class SentenceStore:
    @classmethod
    def open(cls, sentences, prior, negative, folder):
        raise NotImplementedError
