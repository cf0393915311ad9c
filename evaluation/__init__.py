"""The commands of the evaluation by the names that ScaleDreamer's users know; the work is in microdreamer.evaluation."""
