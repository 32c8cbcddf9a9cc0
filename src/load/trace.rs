//! (module of this name: see DESIGN section 5)
