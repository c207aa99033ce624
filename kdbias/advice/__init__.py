"""Should these data be rectified, towards what, how far, and at what cost: in ten lines of plain words."""
