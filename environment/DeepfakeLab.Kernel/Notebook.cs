namespace DeepfakeLab.Notebooks;
