"""The dream beside the truth, played in a browser. Import names: ``worldsim.play``."""
