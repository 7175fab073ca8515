pub(crate) mod elf_file;
mod file;
mod guests;
mod text;
