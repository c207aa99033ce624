"""run(): the stages from images to an advice, in one folder and one resumable call."""
