"""The node agent: it heals what no CNI call asks for (N2), repairs what can be repaired, and tells of the rest."""
